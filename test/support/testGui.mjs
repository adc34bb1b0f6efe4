// A GUI for tests: prints what the tunnel service says as lines of JSON, and says what it reads as lines of JSON. It shares
// no code with the service.
//   node testGui.mjs SOCKET
import { connect } from "node:net"
import { createInterface } from "node:readline"

const socket = connect(process.argv[2] ?? "/run/dev.firezone.client/tunnel.sock")
socket.on("error", (error) => {
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
})
socket.on("close", () => process.stdin.destroy())

let bytes = Buffer.alloc(0)
socket.on("data", (part) => {
  bytes = Buffer.concat([bytes, part])
  while (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE(0)) {
    const end = 4 + bytes.readUInt32BE(0)
    process.stdout.write(`${JSON.stringify(JSON.parse(bytes.toString("utf8", 4, end)))}\n`)
    bytes = bytes.subarray(end)
  }
})

createInterface({ input: process.stdin }).on("line", (line) => {
  const body = Buffer.from(line, "utf8")
  const header = Buffer.alloc(4)
  header.writeUInt32BE(body.length)
  socket.write(Buffer.concat([header, body]))
}).on("close", () => socket.end())
