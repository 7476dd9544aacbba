// Speaks Socket.IO with the server, packet by packet, and shows the text of each packet unchanged.
//
// A client library would parse the JSON, and the numbers of JavaScript lose the last digits of an amount.
'use strict';

const LINES_MAX = 200;
const part = (id) => document.getElementById(id);
let socket = null;
let acknowledgement = 0;

function show(direction, name, text = '') {
  const line = document.createElement('li');
  line.className = direction;
  const time = document.createElement('time');
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  const title = document.createElement('b');
  title.textContent = name;
  const payload = document.createElement('code');
  payload.textContent = text;
  line.append(time, title, payload);
  const log = part('log');
  const lines = log.firstElementChild;
  lines.append(line);
  while (lines.children.length > LINES_MAX) lines.firstChild.remove();
  log.scrollTop = log.scrollHeight;
}

function setState(state, text) {
  part('live').dataset.state = state;
  part('state').textContent = text;
  part('connection').textContent = socket ? 'Disconnect' : 'Connect';
  part('send').disabled = part('ping').disabled = state !== 'connected';
}

function connect() {
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  socket = new WebSocket(`${scheme}//${location.host}${part('live').dataset.path}/?EIO=4&transport=websocket`);
  socket.onmessage = ({ data }) => read(data);
  socket.onclose = ({ code, reason }) => {
    socket = null;
    setState('closed', `closed (${code}${reason && ': ' + reason})`);
  };
  setState('connecting', 'connecting …');
}

// The first digit is Engine.IO's: 0 open, 2 ping, 3 pong, 4 message. In a message the next one is Socket.IO's:
// 0 connected, 1 disconnected, 2 event, 3 acknowledgement, 4 rejected; then the acknowledgement's number, if any.
function read(packet) {
  const [, kind, number, text] = /^(4?\d)(\d*)(.*)$/s.exec(packet);
  if (kind === '0') {
    show('in', 'open', text);
    const token = part('token').value.trim();
    socket.send(`40${token && JSON.stringify({ token })}`);
  } else if (kind === '2') {
    show('in', 'heartbeat');
    socket.send('3');
  } else if (kind === '40') {
    setState('connected', 'connected');
    show('in', 'connect', text);
  } else if (kind === '42') {
    const [, name, payload] = /^\["([^"]*)",?(.*)\]$/s.exec(text);
    show('in', name, payload);
  } else if (kind === '43') {
    show('in', `acknowledgement ${number}`, text.slice(1, -1));
  } else if (kind === '44') {
    setState('rejected', 'rejected');
    show('in', 'connect_error', text);
  } else {
    show('in', `packet ${kind}`, text);
  }
}

function send(name, payload) {
  try {
    JSON.parse(payload || 'null');
  } catch (error) {
    show('wrong', 'not sent', error.message);
    return;
  }
  acknowledgement += 1;
  socket.send(`42${acknowledgement}["${name}"${payload && ',' + payload}]`);
  show('out', `${name} ${acknowledgement}`, payload);
}

part('connection').addEventListener('click', () => (socket ? socket.close() : connect()));
part('send').addEventListener('click', () => send('balance:update', part('update').value.trim()));
part('ping').addEventListener('click', () => send('ping', ''));
