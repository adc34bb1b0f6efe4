/**
 * Many gateways in one process: each has its own identity, key, sockets and connection to the portal, as if it were alone,
 * but no TUN device. Behind each, every address answers pings.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../protocol/crypto.ts"
import { checksum } from "../../protocol/wire/checksum.ts"
import { IpPacket, PacketKind } from "../../protocol/wire/ip.ts"
import { TunDevice, type TunHandlers } from "../../services/TunDevice.ts"
import { serveControl } from "../control.ts"
import type { LabError } from "../LabError.ts"
import { externalIdOf, type Farm, type FarmState } from "./farm.ts"
import { outsideLayer, readEnvironment, start } from "./gatewayProcess.ts"

/** A device whose host answers pings of IPv4. */
const echoingDevice: Layer.Layer<TunDevice> = Layer.sync(TunDevice, () =>
  TunDevice.of({
    open: ({ name }) =>
      Effect.sync(() => {
        const packet = new IpPacket()
        let handlers: TunHandlers | undefined
        let answers: Array<Uint8Array> = []
        let written = 0
        const deliver = (): void => {
          const due = answers
          answers = []
          for (const answer of due) {
            handlers?.onPacket(answer, CIPHER_HEADROOM, answer.length - CIPHER_HEADROOM - CIPHER_TAILROOM)
          }
          handlers?.onBatchEnd()
        }
        return {
          name,
          interfaceIndex: 0,
          instance: 0,
          start: (starting) =>
            Effect.sync(() => {
              handlers = starting
            }),
          write: (buffer, offset, length) => {
            written += 1
            if (!packet.parse(buffer, offset, length) || packet.version !== 4 || packet.kind !== PacketKind.Echo) return
            answers.push(echoReply(buffer.subarray(offset, offset + length), packet.transport - offset))
            // Not from inside of the call that brought it.
            if (answers.length === 1) setImmediate(deliver)
          },
          flush: () => {},
          configure: () => Effect.succeed({ ipv4: true, ipv6: true }),
          setReading: () => undefined,
          stats: () => ({ read: 0, readBytes: 0, written, writtenBytes: 0, dropped: {}, offloads: "none" }),
          closed: Effect.never
        }
      })
  }))

/** With room around it, as devices give packets. */
const echoReply = (request: Uint8Array, icmp: number): Uint8Array => {
  const bytes = new Uint8Array(CIPHER_HEADROOM + request.length + CIPHER_TAILROOM)
  const reply = bytes.subarray(CIPHER_HEADROOM, CIPHER_HEADROOM + request.length)
  reply.set(request)
  reply.set(request.subarray(12, 16), 16)
  reply.set(request.subarray(16, 20), 12)
  reply.set([0, 0, 0, 0], icmp)
  const sum = checksum(reply, icmp, reply.length - icmp)
  reply.set([sum >>> 8, sum & 0xff], icmp + 2)
  return bytes
}

/** `lab serve gateways`: until the process is told to stop. The control socket knows one request, `/state`. */
export const serve = (
  config: Farm & { readonly control: string },
  token: Redacted.Redacted | undefined
): Effect.Effect<never, LabError> =>
  Effect.scoped(Effect.gen(function*() {
    const environment = yield* readEnvironment(token)
    // The servers of the gateways bind to tunnel addresses, which no device has.
    for (const family of ["ipv4", "ipv6"]) fs.writeFileSync(`/proc/sys/net/${family}/ip_nonlocal_bind`, "1")
    const gateways = yield* Effect.forEach(
      Array.from({ length: config.gateways }, (_, index) => externalIdOf(environment.id, index)),
      (id) => start({ ...environment, id, name: id }),
      { concurrency: 8 }
    )
    yield* serveControl(config.control, (path): FarmState => {
      if (path !== "/state") throw new Error(`no such request: ${path}`)
      return { peers: gateways.reduce((sum, gateway) => sum + gateway.state().peers.length, 0) }
    })
    return yield* Effect.raceAll(gateways.map(({ failed }) => failed))
  })).pipe(Effect.provide(Layer.provideMerge(echoingDevice, outsideLayer)))
