socket.emit('balance:update', {
  ts: '2025-11-07T00:45:08.603Z',
  pid: 1132978,
  onchain: {
    rlb: 100074.99978,
    usdt: 7656.36
  },
  onsite: {
    rlb: 101132.407627,
    usd: 7646.96
  }
});

socket.emit('ping');

socket.on('connected', (data) => {
  console.log(data.message); // "Connected to balance snapshot server"
  console.log(data.socketId); // Socket ID
  console.log(data.timestamp); // ISO timestamp
});

socket.on('balance:snapshot', (data) => {
  console.log('New snapshot:', data);
  // {
  //   id: "uuid",
  //   ts: "2025-11-07T00:45:08.603Z",
  //   pid: 1132978,
  //   onchain: { rlb: 100074.99978, usdt: 7656.36 },
  //   onsite: { rlb: 101132.407627, usd: 7646.96 }
  // }
});

socket.on('balance:ack', (data) => {
  console.log('Acknowledged:', data);
  // { success: true, id: "uuid", timestamp: "..." }
});

socket.on('balance:error', (error) => {
  console.error('Error:', error);
  // { success: false, error: "error message" }
});

socket.on('pong', (data) => {
  console.log('Pong received:', data.timestamp);
});
