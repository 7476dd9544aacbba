// Send ping every 30 seconds
setInterval(() => {
  socket.emit('ping');
}, 30000);

socket.on('pong', (data) => {
  console.log('Server is alive:', data.timestamp);
});
