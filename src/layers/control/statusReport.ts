/** What the control socket says of a session. */
import { STATUS_VERSION, type StatusReport } from "../../model/status.ts"
import type { TunnelStatus } from "../../services/Tunnel.ts"

const peerReport = ({ path, peer, ...facts }: TunnelStatus["peers"][number]): StatusReport["peers"][number] => ({
  id: peer,
  ...facts,
  path: path === undefined
    ? undefined
    : { kind: path.kind, local: path.local.text, remote: path.remote.text, relay: path.relay }
})

export const statusReport = (
  { peers, portal, relays, ...status }: TunnelStatus,
  client: StatusReport["client"],
  apiUrl: URL
): StatusReport => ({
  version: STATUS_VERSION,
  client,
  signedIn: portal.state === "connected",
  portal: { url: apiUrl.href, ...portal },
  ...status,
  peers: peers.map(peerReport),
  relays: relays.map(({ addresses, ...facts }) => ({ ...facts, addresses: addresses.map(({ text }) => text) }))
})
