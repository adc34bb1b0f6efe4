/** A resolver for hosts of ours that knows what the test tells it. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { IpAddress, SocketAddress } from "../../src/model/Route.ts"
import { HostResolver, HostUnresolved } from "../../src/services/HostResolver.ts"

export interface HostResolverDouble {
  readonly addresses: Map<string, ReadonlyArray<IpAddress>>
  /** Hosts asked for, oldest first. */
  readonly asked: Array<string>
  servers: ReadonlyArray<SocketAddress>
  readonly layer: Layer.Layer<HostResolver>
}

export const makeHostResolverDouble = (): HostResolverDouble => {
  const double: HostResolverDouble = {
    addresses: new Map(),
    asked: [],
    servers: [],
    layer: Layer.sync(HostResolver, () =>
      HostResolver.of({
        resolve: (host) =>
          Effect.suspend(() => {
            double.asked.push(host)
            const addresses = double.addresses.get(host)
            return addresses === undefined
              ? new HostUnresolved({ host, reason: "the test knows none" })
              : Effect.succeed(addresses)
          }),
        setServers: (servers) =>
          Effect.sync(() => {
            double.servers = servers
          }),
        servers: Effect.sync(() => double.servers)
      }))
  }
  return double
}
