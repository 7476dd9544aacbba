const io = require('socket.io-client');

const socket = io('http://148.251.66.154:3000', {
  path: '/api/socket.io'
});

socket.on('connect', () => {
  console.log('Connected!');
  
  // Send balance update
  socket.emit('balance:update', {
    ts: new Date().toISOString(),
    pid: process.pid,
    onchain: {
      rlb: 100074.99978,
      usdt: 7656.36
    },
    onsite: {
      rlb: 101132.407627,
      usd: 7646.96
    }
  });
});

socket.on('balance:ack', (data) => {
  console.log('Balance saved:', data);
});

socket.on('balance:snapshot', (data) => {
  console.log('New snapshot received:', data);
});
