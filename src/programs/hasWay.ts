import * as Effect from "effect/Effect"
import { ip, type IpAddress, parseIp } from "../protocol/wire/address.ts"
import { RouteResolver } from "../services/RouteResolver.ts"
import { SystemResolvers } from "../services/SystemResolvers.ts"

/** Stand for all public addresses; nothing is sent to them. */
const PUBLIC = [ip("1.0.0.1"), ip("2600::1")]

const isLoopback = (address: IpAddress): boolean => address.startsWith("127.") || address === "::1"

/**
 * Whether there may be a way to a host. Of a name it is not known where that leads: there is one as soon as the machine
 * reaches the Internet or a name server of its own.
 */
export const hasWay = (url: URL) =>
  Effect.gen(function*() {
    const { resolve } = yield* RouteResolver
    const address = parseIp(url.hostname.replace(/^\[|\]$/g, ""))
    const targets = address === undefined
      ? [...PUBLIC, ...(yield* (yield* SystemResolvers).current).filter((server) => !isLoopback(server))]
      : [address]
    return yield* Effect.exists(targets, (target) =>
      resolve(target).pipe(
        Effect.as(true),
        // Only the system itself can say that there is none.
        Effect.catchAll((error) => Effect.succeed(error._tag !== "NoRoute"))
      ))
  })
