import * as Either from "effect/Either"
import { ERRNO } from "../../ffi/linux/libc.ts"
import * as encode from "../../ffi/linux/rtnetlinkEncode.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { MAX_INSTANCES, type PolicyTables, tablesOf } from "../../model/policyRouting.ts"
import { clientRanges } from "../../protocol/tunnel/clientRanges.ts"
import type { InterfaceRequests, Step } from "./InterfaceRequests.ts"
import { wantedRoute } from "./missingParts.ts"

export interface Claim {
  /** Which one of the clients in this network namespace we are, from 0. */
  readonly instance: number
  readonly tables: PolicyTables
}

/**
 * Takes the tables of the first instance that no running client has, and empties them. The claim is a route through our
 * interface that exists once in the table: the kernel decides between two clients that start in the same instant, and
 * takes the route away when ours dies. Left with the names of the others' interfaces if all are taken. The interface
 * must be up.
 */
export const claimTables = (
  requests: InterfaceRequests,
  index: number
): Either.Either<Claim, SyscallError | ReadonlyArray<string>> =>
  Either.gen(function*() {
    const others: Array<string> = []
    for (let instance = 0; instance < MAX_INSTANCES; instance++) {
      const tables = tablesOf(instance)
      const other = yield* take(requests, index, instance, tables)
      if (other === undefined) {
        yield* requests.flush(tables, index)
        yield* requests.deleteRules(tables)
        yield* removeLeftOvers(requests, index, instance + 1)
        return { instance, tables }
      }
      others.push(other)
    }
    return yield* Either.left(others)
  })

/** Of later clients that died: perhaps none will ever take their tables again. */
const removeLeftOvers = (requests: InterfaceRequests, index: number, from: number): Step =>
  Either.gen(function*() {
    for (let instance = from; instance < MAX_INSTANCES; instance++) {
      const tables = tablesOf(instance)
      if ((yield* requests.otherTunnel(index, tables.user.table)) !== undefined) continue
      yield* requests.flush(tables)
      yield* requests.deleteRules(tables)
    }
  })

/** The name of the interface that has the tables, if they are not ours now. */
const take = (
  requests: InterfaceRequests,
  index: number,
  instance: number,
  tables: PolicyTables
): Step<string | undefined> =>
  Either.gen(function*() {
    const network = clientRanges(instance).routes.find(({ address }) => !address.includes(":"))
    const claim = network === undefined ? undefined : wantedRoute(network, index, tables)
    for (let attempt = 0; attempt < 2; attempt++) {
      const other = yield* requests.otherTunnel(index, tables.user.table)
      if (other !== undefined || claim === undefined) return other
      const added = requests.change(encode.addDeviceRoute(claim), "claim a routing table")
      // Without IPv4, or without policy routing, only the look above tells.
      if (Either.isRight(added) || unsupported.includes(added.left.code)) return undefined
      if (added.left.code !== ERRNO.EEXIST) return yield* Either.left(added.left)
      // Of a client that died and whose interface persists, or of one that came since we looked.
      if (attempt === 0 && (yield* requests.otherTunnel(index, tables.user.table)) === undefined) {
        yield* requests.flush(tables)
      }
    }
    return (yield* requests.otherTunnel(index, tables.user.table)) ?? "unknown"
  })

const unsupported: ReadonlyArray<number> = [ERRNO.EOPNOTSUPP, ERRNO.EAFNOSUPPORT]
