/** What `dig` finds out on a host. */
import * as Effect from "effect/Effect"
import type { LabError } from "./LabError.ts"
import type { HostName, Topology } from "./topology.ts"

export interface DnsRecord {
  readonly name: string
  readonly ttl: number
  readonly type: string
  readonly data: string
}

export interface Answer {
  /** `NOERROR`, `NXDOMAIN`, ...; `undefined` if there was no answer. */
  readonly status: string | undefined
  readonly flags: ReadonlyArray<string>
  readonly records: ReadonlyArray<DnsRecord>
  /** Of the answer section. */
  readonly data: ReadonlyArray<string>
  readonly millis: number
  /** In one line, for a person. */
  readonly text: string
}

/** Longer than a query through the tunnel may take. */
const SECONDS = 12

/** Asks once; `args` are dig's: `@server`, name, type, `+tcp`. After a truncated answer dig asks again over TCP. */
export const dig = (
  topology: Topology,
  host: HostName,
  args: ReadonlyArray<string>
): Effect.Effect<Answer, LabError> =>
  Effect.gen(function*() {
    const began = Date.now()
    const { stdout } = yield* topology.run(
      host,
      ["dig", `+time=${SECONDS}`, "+tries=1", "+noall", "+comments", "+answer", ...args],
      { timeoutMillis: (SECONDS * 2 + 5) * 1000 }
    )
    const millis = Date.now() - began
    const records = stdout.split("\n").flatMap((line) => {
      const [, name, ttl, type, data] = /^([^;\s]\S*)\s+(\d+)\s+IN\s+(\S+)\s+(.*)$/.exec(line) ?? []
      return name === undefined || type === undefined || data === undefined
        ? []
        : [{ name, ttl: Number(ttl), type, data }]
    })
    const status = /status: (\w+)/.exec(stdout)?.[1]
    const data = records.map((record) => record.data)
    return {
      status,
      flags: /;; flags: ([a-z ]*);/.exec(stdout)?.[1]?.split(" ") ?? [],
      records,
      data,
      millis,
      text: status === undefined
        ? `no answer within ${millis} ms`
        : `${status}, ${data.length > 4 ? `${data.length} records` : data.join(" ") || "no record"}, ${millis} ms`
    }
  })
