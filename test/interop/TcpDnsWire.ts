/** Our DNS over TCP on one side of a TUN device, the kernel and what runs on it on the other. */
import * as Effect from "effect/Effect"
import type { TunnelAnswer } from "../../src/protocol/dns/TunnelDnsClient.ts"
import { TcpDnsClient } from "../../src/protocol/tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../../src/protocol/tcp/TcpDnsServer.ts"
import type { TcpDnsQuery } from "../../src/protocol/tcp/types.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { IpPacket } from "../../src/protocol/wire/ip.ts"
import { openTun, TUN } from "../layers/tun/support.ts"
import { type Random, seeded } from "../simulation/random.ts"
import { run } from "../support/netns.ts"

export const SENTINELS = { 4: "100.100.111.1", 6: "fd00:2021:1111:8000:100:100:111:0" } as const
/** Of the kernel, on the device: applications ask from there, and resolvers listen there. */
export const KERNEL = { 4: "100.64.0.5", 6: "fd00:2021:1111::5" } as const
/** Of our client. */
export const OURS = { 4: "100.64.0.9", 6: "fd00:2021:1111::9" } as const

export class Wire {
  readonly server: TcpDnsServer
  readonly client: TcpDnsClient<number>
  readonly answers: Array<TunnelAnswer<number>> = []
  /** Takes the queries of applications. */
  onQuery: (query: TcpDnsQuery) => void = () => {}
  /** The share of packets that get lost, in either direction. */
  loss = 0
  /** Packets to the kernel with a single byte in them, which ask whether its window is still closed. */
  probes = 0
  readonly #packet = new IpPacket()
  readonly #random: Random = seeded(1)
  readonly #toKernel: (packet: Uint8Array) => void
  #skipped = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(toKernel: (packet: Uint8Array) => void) {
    const randomBytes = (length: number) => crypto.getRandomValues(new Uint8Array(length))
    this.server = new TcpDnsServer(randomBytes)
    this.server.listen([ip(SENTINELS[4]), ip(SENTINELS[6])])
    this.client = new TcpDnsClient(randomBytes)
    this.#toKernel = toKernel
  }

  get now(): number {
    return performance.now() + this.#skipped
  }

  /** Makes our clock jump ahead, not that of the kernel. */
  skip(millis: number): void {
    this.#skipped += millis
    this.settle()
  }

  fromKernel(buffer: Uint8Array, offset: number, length: number): void {
    if (this.#random() < this.loss || !this.#packet.parse(buffer, offset, length)) return
    if (!this.server.handlePacket(this.#packet, this.now)) this.client.accept(this.#packet, this.now)
  }

  /** To be called after everything that happens. */
  settle(): void {
    const { client, now, server } = this
    server.handleTimeout(now)
    client.handleTimeout(now)
    for (let query = server.pollQuery(now); query !== undefined; query = server.pollQuery(now)) this.onQuery(query)
    for (let answer = client.pollAnswer(); answer !== undefined; answer = client.pollAnswer()) this.answers.push(answer)
    for (let packet = server.pollPacket(now); packet !== undefined; packet = server.pollPacket(now)) this.#send(packet)
    for (let packet = client.pollPacket(); packet !== undefined; packet = client.pollPacket()) this.#send(packet)
    // Reading made room for more, or sending did.
    const query = server.pollQuery(now)
    if (query !== undefined) {
      this.onQuery(query)
      return this.settle()
    }
    clearTimeout(this.#timer)
    const at = Math.min(server.pollTimeout() ?? Infinity, client.pollTimeout() ?? Infinity)
    if (at < Infinity) this.#timer = setTimeout(() => this.settle(), Math.max(1, at - now))
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  #send(packet: Uint8Array): void {
    if (packet.length === ((packet[0] ?? 0) >> 4 === 4 ? 41 : 61)) this.probes += 1
    if (this.#random() >= this.loss) this.#toKernel(packet)
  }
}

/** This process has to be in a private namespace; the device goes with the scope. */
export const openWire = Effect.gen(function*() {
  const tun = yield* openTun
  run("ip", "addr", "add", `${KERNEL[4]}/32`, "dev", TUN)
  run("ip", "addr", "add", `${KERNEL[6]}/128`, "dev", TUN, "nodad")
  run("ip", "link", "set", TUN, "mtu", "1280", "up")
  for (const to of [SENTINELS[4], OURS[4], SENTINELS[6], OURS[6]]) run("ip", "route", "add", to, "dev", TUN)
  const wire = yield* Effect.acquireRelease(
    Effect.sync(() =>
      new Wire((packet) => {
        tun.write(packet, 0, packet.length)
        tun.flush()
      })
    ),
    (wire) => Effect.sync(() => wire.close())
  )
  yield* tun.start({
    onPacket: (buffer, offset, length) => wire.fromKernel(buffer, offset, length),
    onBatchEnd: () => wire.settle()
  })
  return wire
})
