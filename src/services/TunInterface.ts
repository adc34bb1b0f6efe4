import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { TunFailed, TunInterfaceConfig } from "./TunDevice.ts"

/** Addresses, MTU, link state, routes and policy rules of one tunnel interface (host spec sections 8.3 to 8.5, 9). */
export class TunInterface extends Context.Tag("firezone-headless-client/services/TunInterface")<TunInterface, {
  /**
   * Takes charge of the interface: takes routing tables that no running client has and empties them of what an earlier
   * run left, keeps the link-scope copy up to date while the scope lasts, and removes routes and rules when it ends.
   * Fails if as many clients run as there can be.
   */
  readonly manage: (interfaceName: string) => Effect.Effect<
    {
      readonly interfaceIndex: number
      /** Which one of the clients in this network namespace it is, from 0. */
      readonly instance: number
      readonly configure: (
        config: TunInterfaceConfig
      ) => Effect.Effect<{ readonly ipv4: boolean; readonly ipv6: boolean }, TunFailed>
    },
    TunFailed,
    Scope.Scope
  >
}>() {}
