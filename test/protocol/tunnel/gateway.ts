/** A gateway's core over a `NodeDouble`, in the states that tests begin with. */
import type {
  CreateAuthorization,
  GatewayPush,
  GatewayRequest,
  GatewayResource
} from "../../../src/protocol/portal/types.ts"
import { GatewayTunnel } from "../../../src/protocol/tunnel/GatewayTunnel.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import type { Gateway } from "./fixtures.ts"
import { Harness } from "./NodeDouble.ts"

const EPOCH = 1_700_000_000_000

/** A client as the gateway's portal describes it. */
export interface Client {
  readonly id: string
  readonly ipv4: string
  readonly ipv6: string
}

export class GatewayHarness extends Harness<GatewayTunnel> {
  constructor() {
    super((node) => new GatewayTunnel({ node, unixEpochMillis: EPOCH }))
  }

  push(push: GatewayPush): void {
    this.core.handlePush(push, this.now)
  }

  requests(): ReadonlyArray<GatewayRequest> {
    return this.events().flatMap((event) => event._tag === "Request" ? [event.request] : [])
  }

  /** Unix seconds, so long from now. */
  in(seconds: number): number {
    return (EPOCH + this.now) / 1000 + seconds
  }

  grant(client: Client, resource: GatewayResource, more: Partial<CreateAuthorization> = {}): void {
    this.push({
      _tag: "CreateAuthorization",
      authorization: {
        ref: `${client.id} ${resource.id}`,
        resource,
        client: {
          id: client.id,
          publicKey: new Uint8Array(32).fill(1),
          presharedKey: new Uint8Array(32).fill(2),
          ipv4: ip(client.ipv4),
          ipv6: ip(client.ipv6)
        },
        clientIceCredentials: { username: "client", password: "c" },
        gatewayIceCredentials: { username: "gateway", password: "g" },
        useIceless: false,
        ...more
      }
    })
  }

  /** The grant, and the connection with it; nothing of it is left to be told. */
  connect(client: Client, resource: GatewayResource, more: Partial<CreateAuthorization> = {}): void {
    this.grant(client, resource, more)
    if (!this.node.isEstablished(client.id)) this.node.establish(client.id)
    this.nudge()
    this.events()
  }
}

/** A gateway that knows its addresses. */
export const gatewayWith = ({ ipv4, ipv6 }: Pick<Gateway, "ipv4" | "ipv6">): GatewayHarness => {
  const gateway = new GatewayHarness()
  gateway.push({ _tag: "GatewayInit", ipv4: ip(ipv4), ipv6: ip(ipv6), relays: [], authorizations: [] })
  gateway.events()
  return gateway
}
