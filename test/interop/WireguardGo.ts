/** wireguard-go with an interface of its own in a network namespace, and a /run of its own, where its socket lies. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { makeNamespace, type Namespace, run } from "../support/netns.ts"
import { waitFor } from "../support/waitFor.ts"
import { daemon } from "./programs.ts"

/** Of the link between this process's namespace (1) and the one of wireguard-go (2). */
export const OUTER = { ours: "192.0.2.1", theirs: "192.0.2.2", link: "wg-outer" }
/** Inside the tunnel. */
export const INNER = { ours: "10.99.0.1", theirs: "10.99.0.2", ours6: "fd99::1", theirs6: "fd99::2" }
export const PORT = 51_820

const base64 = (key: Uint8Array): string => Buffer.from(key).toString("base64")

export interface PeerConfig {
  readonly publicKey: Uint8Array
  readonly presharedKey: Uint8Array
  /** Where to find it; without one wireguard-go waits to be called. */
  readonly endpoint?: { readonly address: string; readonly port: number }
}

export interface WireguardGo {
  readonly namespace: Namespace
  /** Adds the peer, or replaces what is known of it. */
  readonly setPeer: (peer: PeerConfig) => void
  readonly removePeer: (publicKey: Uint8Array) => void
  /** What `wg show` says of the peer. */
  readonly peer: (publicKey: Uint8Array) => {
    readonly endpoint: string
    readonly latestHandshake: number
    readonly received: number
    readonly sent: number
  }
}

/** This process has to be in a private namespace: it gets one end of the link. */
export const start = (privateKey: Uint8Array): Effect.Effect<WireguardGo, never, Scope.Scope> =>
  Effect.gen(function*() {
    const namespace = yield* makeNamespace("wireguard-go")
    yield* Effect.acquireRelease(
      Effect.sync(() =>
        run("ip", "link", "add", OUTER.link, "type", "veth", "peer", "name", OUTER.link, "netns", namespace.name)
      ),
      () => Effect.sync(() => run("ip", "link", "del", OUTER.link))
    )
    run("ip", "addr", "add", `${OUTER.ours}/24`, "dev", OUTER.link)
    run("ip", "link", "set", OUTER.link, "up")
    namespace.run("ip", "addr", "add", `${OUTER.theirs}/24`, "dev", OUTER.link)
    namespace.run("ip", "link", "set", OUTER.link, "up")

    // `ip netns exec` gives it a mount namespace of its own; everything here is replaced by the next, so the pid stays.
    const script = "mount -t tmpfs none /run && exec wireguard-go -f wg0"
    const { isRunning, output, pid } = yield* daemon([...namespace.prefix, "sh", "-c", script], {
      env: { WG_PROCESS_FOREGROUND: "1", LOG_LEVEL: "error" }
    })
    const socket = `/proc/${pid}/root/run/wireguard/wg0.sock`
    yield* waitFor("wireguard-go", () => {
      if (!isRunning()) throw new Error(`wireguard-go has ended: ${output()}`)
      return fs.existsSync(socket)
    })
    const wg = (args: ReadonlyArray<string>, input = ""): string =>
      // Our end of its standard input is a socket, which cannot be opened as a file; a pipe can.
      execFileSync("nsenter", ["-t", String(pid), "-m", "-n", "sh", "-c", "cat | wg \"$@\"", "wg", ...args], {
        encoding: "utf8",
        input
      })
    wg(["set", "wg0", "listen-port", String(PORT), "private-key", "/dev/stdin"], base64(privateKey))
    for (const [address, more] of [[`${INNER.theirs}/24`, []], [`${INNER.theirs6}/64`, ["nodad"]]] as const) {
      namespace.run("ip", "addr", "add", address, "dev", "wg0", ...more)
    }
    namespace.run("ip", "link", "set", "wg0", "mtu", "1280", "up")

    return {
      namespace,
      setPeer: ({ endpoint, presharedKey, publicKey }) => {
        const where = endpoint === undefined ? [] : ["endpoint", `${endpoint.address}:${endpoint.port}`]
        const allowed = `${INNER.ours}/32,${INNER.ours6}/128`
        wg(
          ["set", "wg0", "peer", base64(publicKey), "preshared-key", "/dev/stdin", "allowed-ips", allowed, ...where],
          base64(presharedKey)
        )
      },
      removePeer: (publicKey) => wg(["set", "wg0", "peer", base64(publicKey), "remove"]),
      peer: (publicKey) => {
        const line = wg(["show", "wg0", "dump"]).split("\n").find((text) => text.startsWith(base64(publicKey)))
        const [, , endpoint = "", , latestHandshake, received, sent] = line?.split("\t") ?? []
        return {
          endpoint,
          latestHandshake: Number(latestHandshake),
          received: Number(received),
          sent: Number(sent)
        }
      }
    }
  })
