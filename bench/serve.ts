/** `bench serve ROLE CONFIG`: programs that benches run on hosts of the lab. They write one line of JSON when they are done. */
import * as dgram from "node:dgram"
import * as net from "node:net"
import type { EchoConfig, FlowsConfig, FlowsResult } from "./flows.ts"

const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`)

const PROBE_MILLIS = 5
const MAX_PROBES = 4000

/**
 * Asks a web server over a new connection every few milliseconds, and tells when the first byte of the first answer came:
 * a connection that was begun before there was a tunnel keeps its address, and could never be answered.
 */
const firstByte = ({ address, port }: { readonly address: string; readonly port: number }): void => {
  let probes = 0
  const timer = setInterval(() => {
    probes += 1
    if (probes > MAX_PROBES) {
      clearInterval(timer)
      return say({ error: "no answer" })
    }
    const socket = net.connect(port, address)
    socket.on("error", () => {})
    socket.on("connect", () => socket.write("GET / HTTP/1.0\r\n\r\n"))
    socket.once("data", () => {
      say({ at: performance.timeOrigin + performance.now() })
      process.exit(0)
    })
  }, PROBE_MILLIS)
  say({ ready: true })
}

/** Sends every datagram back, on some ports in a row; an answer has to come from the address that was asked. */
const echo = ({ addresses, count, firstPort }: EchoConfig): void => {
  let bound = 0
  for (const address of addresses) {
    for (let port = firstPort; port < firstPort + count; port++) {
      const socket = dgram.createSocket({ type: "udp4", lookup: numeric })
      socket.on("message", (bytes, from) => socket.send(bytes, from.port, from.address))
      socket.bind(port, address, () => {
        bound += 1
        if (bound === count * addresses.length) say({ ready: true })
      })
    }
  }
}

/** Every address is one already; Node would leave the turn to find that out. */
const numeric = (
  hostname: string,
  _options: unknown,
  callback: (error: null, address: string, family: number) => void
): void => callback(null, hostname, 4)

/** How long an answer may take. */
const LOST_MILLIS = 1000

/**
 * Opens `count` flows, `window` of them waiting for their answer at a time: one datagram each way. A flow is a pair of a
 * port here and a port there.
 */
const flows = ({ address, bucket, count, firstPort, sockets, window }: FlowsConfig): void => {
  const sentAt = new Float64Array(count)
  const isDone = new Uint8Array(count)
  const rates: Array<number> = []
  const mine: Array<dgram.Socket> = []
  let [sent, oldest, answered, lost] = [0, 0, 0, 0]
  let began = 0
  let bucketBegan = 0
  let bucketAnswers = 0
  let lastAnswer = 0
  const finish = (flow: number): boolean => {
    if (isDone[flow] === 1) return false
    isDone[flow] = 1
    return true
  }
  const sendMore = (): void => {
    while (sent < count && sent - answered - lost < window) {
      const flow = sent++
      const datagram = Buffer.alloc(4)
      datagram.writeUInt32BE(flow)
      sentAt[flow] = performance.now()
      mine[flow % sockets]?.send(datagram, firstPort + Math.floor(flow / sockets), address)
    }
    if (answered + lost < count) return
    // The wait for the last ones that were lost is nobody's speed.
    if (bucketAnswers > bucket / 2) tally()
    const result: FlowsResult = { rate: answered === 0 ? 0 : answered / (lastAnswer - began) * 1000, lost, rates }
    say(result)
    process.exit(0)
  }
  const tally = (): void => {
    rates.push(bucketAnswers / (lastAnswer - bucketBegan) * 1000)
    bucketBegan = lastAnswer
    bucketAnswers = 0
  }
  const onMessage = (bytes: Buffer): void => {
    if (bytes.length !== 4) return
    const flow = bytes.readUInt32BE()
    if (flow >= sent || !finish(flow)) return
    answered += 1
    bucketAnswers += 1
    lastAnswer = performance.now()
    if (bucketAnswers === bucket) tally()
    sendMore()
  }
  setInterval(() => {
    const due = performance.now() - LOST_MILLIS
    for (; oldest < sent && (isDone[oldest] === 1 || (sentAt[oldest] ?? 0) < due); oldest++) {
      if (finish(oldest)) lost += 1
    }
    sendMore()
  }, 50)
  let bound = 0
  for (let i = 0; i < sockets; i++) {
    const socket = dgram.createSocket({ type: "udp4", lookup: numeric })
    mine.push(socket)
    socket.on("message", onMessage)
    // What cannot be sent is not answered either.
    socket.on("error", () => {})
    socket.bind(0, () => {
      bound += 1
      if (bound < sockets) return
      began = performance.now()
      bucketBegan = began
      sendMore()
    })
  }
}

const roles: { readonly [role: string]: (config: never) => void } = { "first-byte": firstByte, echo, flows }

/** Runs until the process ends. */
export const serve = (role: string, config: string): void => {
  const run = roles[role]
  if (run === undefined) throw new Error(`there is no ${role} to serve`)
  run(JSON.parse(config) as never)
}
