/** What scenarios find out from outside the client, and how they bring it up. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { StatusReport } from "../../model/status.ts"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { expectedSha256, PAGE } from "../web.ts"

export const TUN = "tun-firezone"

interface LinkCounters {
  readonly rx: number
  readonly tx: number
}

/** Packets that went through the client's tunnel device, as the kernel counts them. */
export const tunPackets = (lab: Lab): Effect.Effect<LinkCounters, LabError> =>
  Effect.map(lab.topology.must("client", ["ip", "-s", "-j", "link", "show", TUN]), ({ stdout }) => {
    const [link] = JSON.parse(stdout) as ReadonlyArray<
      { stats64: { rx: { packets: number }; tx: { packets: number } } }
    >
    return { rx: link?.stats64.rx.packets ?? 0, tx: link?.stats64.tx.packets ?? 0 }
  })

/** Waits for the client's interface; the kernel's word, not the client's. */
export const tunAddresses = (lab: Lab): Effect.Effect<ReadonlyArray<string> | undefined, LabError> =>
  eventually(
    Effect.map(lab.topology.run("client", ["ip", "-j", "addr", "show", TUN]), ({ code, stdout }) => {
      if (code !== 0) return undefined
      const [link] = JSON.parse(stdout) as ReadonlyArray<{
        flags: ReadonlyArray<string>
        mtu: number
        addr_info: ReadonlyArray<{ local: string; prefixlen: number; scope: string }>
      }>
      const found = (link?.addr_info ?? []).filter(({ scope }) => scope === "global")
      return link !== undefined && link.mtu === 1280 && link.flags.includes("UP") && found.length === 2
        ? found.map(({ local, prefixlen }) => `${local}/${prefixlen}`)
        : undefined
    }),
    20_000
  )

/** What the client tells of itself. */
export const statusOf = (lab: Lab) =>
  Effect.map(
    lab.runClient({ args: ["status", "--json"] }),
    ({ stdout }) => JSON.parse(stdout) as typeof StatusReport.Type
  )

/** Round-trip times of `count` pings in milliseconds; empty if nothing came back. */
export const ping = (
  lab: Lab,
  address: string,
  count: number,
  options: ReadonlyArray<string> = []
): Effect.Effect<ReadonlyArray<number>, LabError> =>
  Effect.map(
    lab.topology.run("client", ["ping", "-n", "-i", "0.2", "-c", String(count), "-W", "10", ...options, address]),
    ({ stdout }) => [...stdout.matchAll(/time=([0-9.]+) ms/g)].map((match) => Number(match[1]))
  )

const host = (address: string): string => address.includes(":") ? `[${address}]` : address

export const fetchPage = (lab: Lab, recorder: Recorder, address: string) =>
  Effect.gen(function*() {
    const page = yield* lab.topology.run("client", ["curl", "-sS", "-m", "20", `http://${host(address)}/`])
    yield* recorder.check(
      `page from ${address}`,
      page.code === 0 && page.stdout.includes(PAGE),
      page.code === 0 ? page.stdout.trim().replaceAll("\n", " ") : page.stderr.trim()
    )
  })

/**
 * The address that the page's server saw us come from; what curl says if there is no page. `name` is what the page is
 * asked for by; the address unless given.
 */
export const visitor = (lab: Lab, address: string, name?: string): Effect.Effect<string, LabError> =>
  Effect.map(
    lab.topology.run("client", [
      ...["curl", "-sS", "-m", "20"],
      ...(name === undefined
        ? [`http://${host(address)}/`]
        : ["--resolve", `${name}:80:${address}`, `http://${name}/`])
    ]),
    ({ stderr, stdout }) => /You came from (?:::ffff:)?(\S+)\./.exec(stdout)?.[1] ?? stderr.trim()
  )

interface DownloadOptions {
  /** It has failed after this long; 120 unless given. */
  readonly seconds?: number
  /** As fast as it goes unless given. */
  readonly bytesPerSecond?: number
}

/** Downloads `bytes` with curl, over one TCP connection, and compares the SHA-256 that `sha256sum` finds. */
export const download = (
  lab: Lab,
  address: string,
  bytes: number,
  { bytesPerSecond, seconds = 120 }: DownloadOptions = {}
) =>
  Effect.gen(function*() {
    const began = Date.now()
    const rate = bytesPerSecond === undefined ? "" : `--limit-rate ${bytesPerSecond}`
    // The kernel would take megabytes at once, and be done before the network changes.
    const prepare = bytesPerSecond === undefined ? "" : `echo 4096 131072 262144 > /proc/sys/net/ipv4/tcp_rmem;`
    const { stdout, stderr, code } = yield* lab.topology.run("client", [
      "sh",
      "-c",
      `${prepare} curl -sS ${rate} -m ${seconds} http://${host(address)}/bytes/${bytes} | sha256sum`
    ], { timeoutMillis: (seconds + 10) * 1000 })
    const millis = Date.now() - began
    const right = code === 0 && stdout.startsWith(expectedSha256(bytes))
    return {
      right,
      detail: right
        ? `${bytes / 1e6} MB in ${(millis / 1000).toFixed(2)} s, ${
          (bytes * 8 / 1e3 / millis).toFixed(0)
        } Mbit/s, SHA-256 right`
        : `wrong SHA-256 or no answer: ${stderr.trim() || stdout.trim()}`
    }
  })

/** As `download`, in `parts` at once. */
export const downloadInParts = (lab: Lab, address: string, bytes: number, parts: number, seconds: number) =>
  Effect.gen(function*() {
    const began = Date.now()
    const size = Math.ceil(bytes / parts)
    const { stdout } = yield* lab.topology.run("client", [
      "sh",
      "-c",
      `cd "$(mktemp -d /run/parts.XXXXXX)" || exit
for i in $(seq 0 ${parts - 1}); do
  curl -sS -m ${seconds} -r $((i * ${size}))-$(((i + 1) * ${size} - 1)) -o $i http://${host(address)}/bytes/${bytes} &
done
wait
cat $(seq 0 ${parts - 1}) | sha256sum`
    ], { timeoutMillis: (seconds + 10) * 1000 })
    const millis = Date.now() - began
    const right = stdout.startsWith(expectedSha256(bytes))
    return {
      right,
      detail: `${bytes / 1e6} MB in ${parts} parts in ${(millis / 1000).toFixed(1)} s, ${
        right ? "SHA-256 right" : "and the SHA-256 is wrong"
      }`
    }
  })

/** A ping every tenth of a second for as long as the scope lasts. Times are Unix milliseconds. */
export interface Heartbeat {
  /** How long after `since` the first answer came to a ping that was sent after it; `undefined` if none did in time. */
  readonly recovery: (since: number, withinMillis: number) => Effect.Effect<number | undefined>
  /** Between answers from `since` until now. */
  readonly longestSilence: (since: number) => number
}

const pingForever = (address: string): ReadonlyArray<string> => ["ping", "-n", "-D", "-i", "0.1", address]

export const startHeartbeat = (lab: Lab, address: string): Effect.Effect<Heartbeat, LabError, Scope.Scope> =>
  Effect.map(lab.topology.daemon("client", `ping-${address}`, pingForever(address)), ({ log }) => {
    const answers = () =>
      [...log().matchAll(/^\[([0-9.]+)\] .* time=([0-9.]+) ms/gm)].map(([, at, time]) => ({
        at: Number(at) * 1000,
        sentAt: Number(at) * 1000 - Number(time)
      }))
    return {
      recovery: (since, withinMillis) =>
        eventually(
          Effect.sync(() => {
            const first = answers().find(({ sentAt }) => sentAt > since)
            return first === undefined ? undefined : Math.round(first.at - since)
          }),
          withinMillis
        ),
      longestSilence: (since) => {
        const times = [since, ...answers().map(({ at }) => at).filter((at) => at > since), Date.now()]
        return Math.round(Math.max(...times.slice(1).map((at, index) => at - (times[index] ?? at))))
      }
    }
  })

/** The first packet to a resource makes the connection, and waits for it. */
export const connect = (lab: Lab, recorder: Recorder, address: string, boundMillis: number) =>
  Effect.gen(function*() {
    const began = Date.now()
    const [first] = yield* ping(lab, address, 1)
    const millis = Date.now() - began
    yield* recorder.check(
      "connected",
      first !== undefined && millis <= boundMillis,
      first === undefined
        ? "no answer to the first ping"
        : `the first ping, sent before there was a connection, came back after ${millis} ms; at most ${boundMillis} ms`
    )
  })

/** The emulator of the portal has seen nothing that a real one would not expect. */
export const noViolations = (lab: Lab, recorder: Recorder) =>
  Effect.flatMap(lab.portal.state, ({ violations }) =>
    recorder.check(
      "no violations",
      violations.length === 0,
      violations.length === 0
        ? "the portal was sent nothing odd"
        : violations.map(({ what, who }) => `${who}: ${what}`).join("; ")
    ))

/** Starts the client and waits until the portal and the kernel both say that it is up. */
export const bringUp = (
  lab: Lab,
  recorder: Recorder,
  options?: Parameters<Lab["startClient"]>[0]
) =>
  Effect.gen(function*() {
    const began = Date.now()
    const client = yield* lab.startClient(options)
    const signedIn = yield* eventually(
      Effect.map(lab.portal.state, (state) => state.clients.some((device) => device.connected)),
      20_000
    )
    yield* recorder.check(
      "signed in",
      signedIn === true,
      signedIn === true
        ? `the portal sees the client ${Date.now() - began} ms after its start`
        : `not within 20 s\n${client.log().slice(-1500)}`
    )
    const found = yield* tunAddresses(lab)
    yield* recorder.check(
      "TUN up",
      found !== undefined,
      found === undefined
        ? `no interface with two addresses\n${client.log().slice(-1500)}`
        : `${TUN} has ${found.join(" and ")}, MTU 1280`
    )
    return client
  })
