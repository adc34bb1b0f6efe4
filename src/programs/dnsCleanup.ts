/** `dns-cleanup`: what a client that died has left of its DNS settings is taken back. */
import * as Effect from "effect/Effect"
import { DnsControl } from "../services/DnsControl.ts"

/** Does nothing if there is nothing of ours, so a service can run it whenever the client has ended. */
export const dnsCleanup = Effect.flatMap(DnsControl, ({ revert }) => revert)
