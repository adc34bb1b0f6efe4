import * as Either from "effect/Either"
import { ERRNO } from "../../ffi/linux/libc.ts"
import type { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import type { AddressMessage, LinkMessage, RouteMessage, RuleMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import { decodeAddress, decodeLink, decodeRoute, decodeRule } from "../../ffi/linux/rtnetlinkDecode.ts"
import * as encode from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, AF_UNSPEC, IFF } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { AddressFamily } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { type PolicyTables, SOCKET_MARK } from "../../model/policyRouting.ts"

/** Of a TUN device: somebody has it open. */
const RUNNING_TUNNEL = IFF.POINTOPOINT | IFF.RUNNING
const FAMILIES: ReadonlyArray<AddressFamily> = [AF_INET, AF_INET6]
/** What a kernel without that family, or without policy routing, answers. */
const withoutFamily: ReadonlyArray<number> = [ERRNO.ENOENT, ERRNO.EOPNOTSUPP, ERRNO.EAFNOSUPPORT]

export type Step<A = void> = Either.Either<A, SyscallError>

export const accepting = (step: Step, ...codes: ReadonlyArray<number>): Step =>
  Either.isLeft(step) && codes.includes(step.left.code) ? Either.right(undefined) : step

/** The requests of host spec sections 8.3 and 8.4, each with what it may fail with. */
export class InterfaceRequests {
  readonly #netlink: NetlinkRequests

  constructor(netlink: NetlinkRequests) {
    this.#netlink = netlink
  }

  link(name: string): Step<LinkMessage> {
    return this.#netlink.ask(encode.getLinkByName(name), `find interface ${name}`, decodeLink)
  }

  change(request: Uint8Array, what: string): Step {
    return this.#netlink.acknowledge(request, what)
  }

  addresses(index: number): Step<ReadonlyArray<AddressMessage>> {
    return this.#netlink.dump(encode.dumpAddresses(AF_UNSPEC, index), "list addresses", (body) => {
      const address = decodeAddress(body)
      return address?.index === index ? address : undefined
    })
  }

  /** The routes of one table, of both families; a family without that table has none. */
  routes(table: number): Step<ReadonlyArray<RouteMessage>> {
    const found: Array<RouteMessage> = []
    for (const family of FAMILIES) {
      const routes = this.#netlink.dump(encode.dumpRoutes(family, table), "list routes", (body) => {
        const route = decodeRoute(body)
        return route?.family === family && route.table === table ? route : undefined
      })
      if (Either.isRight(routes)) found.push(...routes.right)
      else if (!withoutFamily.includes(routes.left.code)) return Either.left(routes.left)
    }
    return Either.right(found)
  }

  /**
   * The tunnel interface, not `index`, of a client that is running and has routes in the table: that of one which has
   * died is gone with its routes, or, if it was made to persist, not running.
   */
  otherTunnel(index: number, table: number): Step<string | undefined> {
    const routes = this.routes(table)
    if (Either.isLeft(routes)) return Either.left(routes.left)
    for (const other of new Set(routes.right.map(({ outputInterface }) => outputInterface))) {
      if (other === undefined || other === index) continue
      const link = this.#netlink.ask(encode.getLinkByIndex(other), "find interface", decodeLink)
      if (Either.isRight(link) && (link.right.flags & RUNNING_TUNNEL) === RUNNING_TUNNEL) {
        return Either.right(link.right.name)
      }
    }
    return Either.right(undefined)
  }

  deleteRoute(route: RouteMessage): Step {
    return accepting(this.change(encode.deleteRoute(route), "delete route"), ERRNO.ENOENT, ERRNO.ESRCH)
  }

  /** Empties the tables, but for the routes through one interface. */
  flush(tables: PolicyTables, keep?: number): Step {
    for (const { table } of Object.values(tables)) {
      const routes = this.routes(table)
      if (Either.isLeft(routes)) return Either.left(routes.left)
      for (const route of routes.right) {
        if (keep !== undefined && route.outputInterface === keep) continue
        const deleted = this.deleteRoute(route)
        if (Either.isLeft(deleted)) return deleted
      }
    }
    return Either.right(undefined)
  }

  /** The rules that ask the tables, of this run or of a killed one; `undefined` from a kernel that has no rules. */
  rules(family: AddressFamily, tables: PolicyTables): Step<ReadonlyArray<RuleMessage> | undefined> {
    const numbers = new Set<number>(Object.values(tables).map(({ table }) => table))
    const rules = this.#netlink.dump(encode.dumpRules(family), "list rules", (body) => {
      const rule = decodeRule(body)
      return rule?.family === family && numbers.has(rule.table) && rule.mark === SOCKET_MARK ? rule : undefined
    })
    return Either.isLeft(rules) && withoutFamily.includes(rules.left.code) ? Either.right(undefined) : rules
  }

  deleteRules(tables: PolicyTables): Step {
    for (const family of FAMILIES) {
      const rules = this.rules(family, tables)
      if (Either.isLeft(rules)) return Either.left(rules.left)
      for (const rule of rules.right ?? []) {
        const deleted = accepting(this.change(encode.deleteRule(rule), "delete rule"), ERRNO.ENOENT)
        if (Either.isLeft(deleted)) return deleted
      }
    }
    return Either.right(undefined)
  }
}
