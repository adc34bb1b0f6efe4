/** One name, asked at one of the client's own DNS servers. */
import * as Effect from "effect/Effect"
import { randomInt } from "node:crypto"
import * as dgram from "node:dgram"
import { errnoName } from "../../ffi/linux/libc.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { familyOf, type IpAddress, parseIp } from "../../protocol/wire/address.ts"
import { decodeDns, encodeQuery, RecordType, repeatsQuestion, ResponseCode } from "../../protocol/wire/dns.ts"
import { type LookUp, OutsideTunnel, ProbeFailed } from "../../services/ResourceProbe.ts"

const DNS_PORT = 53
/** A datagram may get lost. */
const RESEND_MILLIS = 1000
/** A name that stands for more is not one of ours. */
const MAX_ADDRESSES = 16

/** What a datagram says to the query, or `undefined` if it is no answer to it. */
const answerIn = (reply: Uint8Array, query: Uint8Array, type: number): LookUp | undefined => {
  const message = decodeDns(reply)
  const id = (query[0] as number) << 8 | query[1] as number
  if (message === undefined || !message.isResponse || message.id !== id || !repeatsQuestion(reply, query)) {
    return undefined
  }
  if (message.responseCode !== ResponseCode.NoError) return { _tag: "Refused", responseCode: message.responseCode }
  const addresses = message.answers.flatMap(({ data, type: found }) =>
    found === type && data._tag === "Address" ? [data.address] : []
  )
  return { _tag: "Addresses", addresses: addresses.slice(0, MAX_ADDRESSES) }
}

/** As `ResourceProbe.lookUp` promises. */
export const lookUp = (
  name: string,
  family: 4 | 6,
  server: IpAddress,
  source: IpAddress,
  patienceMillis: number
): Effect.Effect<LookUp, ProbeFailed | OutsideTunnel> => {
  const type = family === 4 ? RecordType.A : RecordType.AAAA
  const query = encodeQuery(randomInt(0x1_0000), name, type)
  if (query === undefined) return Effect.succeed({ _tag: "Refused", responseCode: ResponseCode.FormatError })
  return Effect.acquireUseRelease(
    Effect.sync(() => ({
      socket: dgram.createSocket(familyOf(server) === 4 ? "udp4" : "udp6"),
      resend: undefined as ReturnType<typeof setInterval> | undefined
    })),
    (state) =>
      Effect.async<LookUp, ProbeFailed | OutsideTunnel>((resume) => {
        const { socket } = state
        const send = (): void => socket.send(query, () => undefined)
        socket.on("error", (error: NodeJS.ErrnoException) => {
          const code = Math.abs(error.errno ?? 0)
          const errno = error.code ?? errnoName(code)
          const cause = new SyscallError({ syscall: error.syscall ?? "socket", code, errno })
          resume(new ProbeFailed({ what: `DNS query to ${server}`, cause }))
        })
        socket.on("message", (reply) => {
          const answer = answerIn(reply, query, type)
          if (answer !== undefined) resume(Effect.succeed(answer))
        })
        socket.once("connect", () => {
          const local = parseIp(socket.address().address)
          if (local !== source) return resume(new OutsideTunnel({ destination: server, source: local ?? server }))
          send()
          state.resend = setInterval(send, RESEND_MILLIS)
        })
        socket.connect(DNS_PORT, server)
      }).pipe(
        Effect.timeoutTo({
          duration: patienceMillis,
          onSuccess: (answer): LookUp => answer,
          onTimeout: (): LookUp => ({ _tag: "Silent" })
        })
      ),
    ({ resend, socket }) =>
      Effect.sync(() => {
        clearInterval(resend)
        socket.close()
      })
  )
}
