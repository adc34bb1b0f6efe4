/** A client's core over a `NodeDouble`, in the states that tests begin with. */
import type { SavedName } from "../../../src/protocol/dns/ResourceResolver.ts"
import type { ClientPush, ClientRequest, Resource, ResourceId } from "../../../src/protocol/portal/types.ts"
import { ClientTunnel } from "../../../src/protocol/tunnel/ClientTunnel.ts"
import type { ClientTunnelEvent, SiteState } from "../../../src/protocol/tunnel/types.ts"
import { cryptoFrom, seeded } from "../../simulation/random.ts"
import { CLIENT_4, CLIENT_6, type Gateway, grant, init } from "./fixtures.ts"
import { Harness } from "./NodeDouble.ts"
import { udp } from "./packets.ts"

/** Unix time in milliseconds at `now` = 0. */
export const UNIX_EPOCH_MILLIS = 1.7e12

export class ClientHarness extends Harness<ClientTunnel> {
  constructor(savedNames?: ReadonlyArray<SavedName>) {
    super((node) =>
      new ClientTunnel({ node, crypto: cryptoFrom(seeded(1)), savedNames, unixEpochMillis: UNIX_EPOCH_MILLIS })
    )
  }

  push(push: ClientPush): void {
    this.core.handlePush(push, this.now)
  }

  /** Requests to the portal since, and what else was told is lost. */
  requests(): ReadonlyArray<ClientRequest> {
    return this.events().flatMap((event) => event._tag === "Request" ? [event.request] : [])
  }

  /** Which resources the portal is asked for. */
  intents(): ReadonlyArray<ResourceId> {
    return this.requests().flatMap((request) => request._tag === "RequestAuthorization" ? [request.resourceId] : [])
  }

  status(id: ResourceId): SiteState | undefined {
    return this.core.status(this.now).resources.find((resource) => resource.id === id)?.status
  }

  /** Asks for a resource with a packet to `to`, and has it granted. */
  authorize(resource: ResourceId, to: string, gateway: Gateway): void {
    this.fromTun(udp(via(to)))
    this.push(grant(resource, gateway))
  }

  /** As `authorize`, and the connection comes up; nothing of it is left to be told. */
  connect(resource: ResourceId, to: string, gateway: Gateway): void {
    this.authorize(resource, to, gateway)
    if (!this.node.isEstablished(gateway.id)) this.node.establish(gateway.id)
    this.nudge()
    this.events()
    this.sent()
  }
}

/** From the client's address of the family. */
export const via = (to: string) => ({ from: to.includes(":") ? CLIENT_6 : CLIENT_4, to })
export const back = (from: string) => ({ from, to: from.includes(":") ? CLIENT_6 : CLIENT_4 })

/** A client that has its interface and these resources; the portal has said so and the driver has heard it. */
export const clientWith = (...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = new ClientHarness()
  client.push(init(resources))
  client.events()
  return client
}

export const tags = (events: ReadonlyArray<ClientTunnelEvent>): ReadonlyArray<string> =>
  events.map((event) => event._tag === "Request" ? event.request._tag : event._tag)
