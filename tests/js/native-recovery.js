// The official client with `auth: {recovery: true}` and no other code: prints each connection, its end, and each snapshot.
const { io } = require("socket.io-client");

const print = (...line) => console.log(JSON.stringify(line));
const socket = io(process.argv[2], {
  path: "/api/socket.io",
  auth: { recovery: true },
  reconnectionDelay: 20,
  reconnectionDelayMax: 100,
});
socket.on("connected", ({ seq, goodUntil }) => print("connected", socket.recovered, seq, goodUntil ?? null));
socket.on("balance:snapshot", ({ seq, id }) => print("snapshot", seq, id));
socket.on("disconnect", (reason) => print("end", reason));
socket.on("connect_error", (error) => print("end", error.message));
