/** What lives behind the gateway: a web page, files of any size, and a UDP echo. */
import { createHash } from "node:crypto"
import * as dgram from "node:dgram"
import * as http from "node:http"

const CHUNK = 64 * 1024

/** Bytes that no compression or cache can guess at, the same in every run. */
const chunkAt = (index: number): Buffer => {
  const chunk = Buffer.allocUnsafe(CHUNK)
  for (let offset = 0; offset < CHUNK; offset += 32) {
    createHash("sha256").update(`${index}:${offset}`).digest().copy(chunk, offset)
  }
  return chunk
}
// One megabyte that repeats: hashing 50 MB of fresh bytes would measure the server.
const chunks = Array.from({ length: 16 }, (_, index) => chunkAt(index))
const chunk = (index: number): Buffer => chunks[index % chunks.length] ?? Buffer.alloc(CHUNK)

/** The SHA-256 of `/bytes/length`. */
export const expectedSha256 = (length: number): string => {
  const hash = createHash("sha256")
  for (let index = 0, left = length; left > 0; index++, left -= CHUNK) {
    hash.update(chunk(index).subarray(0, Math.min(left, CHUNK)))
  }
  return hash.digest("hex")
}

export const PAGE = "This page exists only behind the gateway."

/** Serves `/`, `/bytes/N` on TCP port 80 and echoes UDP on port 7, on every address of the host, until the process ends. */
export const serve = async (): Promise<void> => {
  const server = http.createServer((request, response) => {
    const size = /^\/bytes\/(\d{1,12})$/.exec(request.url ?? "")?.[1]
    if (size === undefined) {
      response.setHeader("content-type", "text/plain")
      return response.end(`${PAGE}\nYou came from ${request.socket.remoteAddress ?? "nowhere"}.\n`)
    }
    let left = Number(size)
    response.setHeader("content-length", left)
    let index = 0
    const more = (): void => {
      while (left > 0) {
        const part = chunk(index++).subarray(0, Math.min(left, CHUNK))
        left -= part.length
        if (!response.write(part)) {
          response.once("drain", more)
          return
        }
      }
      response.end()
    }
    more()
  })
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(80, "::", () => resolve()))
  for (const type of ["udp4", "udp6"] as const) {
    const socket = dgram.createSocket({ type, ipv6Only: type === "udp6" })
    socket.on("message", (message, from) => socket.send(message, from.port, from.address))
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject)
      socket.bind(7, () => resolve())
    })
  }
}
