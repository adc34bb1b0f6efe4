import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type { IpAddress, IpNetwork } from "../model/Route.ts"
import type { Family } from "../protocol/wire/address.ts"

export class InventoryFailed
  extends Data.TaggedError("InventoryFailed")<{ readonly cause: { readonly message: string } }>
{
  override get message(): string {
    return `cannot ask the kernel about the network: ${this.cause.message}`
  }
}

export interface LinkFacts {
  readonly index: number
  readonly name: string
  readonly isUp: boolean
  readonly isLoopback: boolean
  readonly mtu: number
  /** What the driver calls itself, such as `wireguard`, `tun`, `veth`; absent for most hardware. */
  readonly kind?: string | undefined
}

/** A unicast route; `0.0.0.0/0` and `::/0` are the defaults. */
export interface RouteFacts {
  readonly destination: IpNetwork
  readonly table: number
  /** Absent if it has several. */
  readonly interfaceIndex?: number | undefined
  readonly nextHop?: IpAddress | undefined
  readonly metric: number
}

export interface RuleFacts {
  readonly family: Family
  readonly priority: number
  /** Absent if the rule does something else than to look up a table. */
  readonly table?: number | undefined
  readonly mark?: number | undefined
  readonly isInverted: boolean
}

/** Interfaces, routes and rules of this machine, our own included; asked of the kernel each time. */
export class NetworkInventory
  extends Context.Tag("firezone-headless-client/services/NetworkInventory")<NetworkInventory, {
    readonly links: Effect.Effect<ReadonlyArray<LinkFacts>, InventoryFailed>
    /** Of every table but `local`; multicast and link-local IPv6 left out. */
    readonly routes: Effect.Effect<ReadonlyArray<RouteFacts>, InventoryFailed>
    /** A family that the kernel has no policy routing for has none. */
    readonly rules: Effect.Effect<ReadonlyArray<RuleFacts>, InventoryFailed>
  }>()
{}
