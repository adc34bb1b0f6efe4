/** The real NetworkManager on the client's host: it manages one link of its own, and `/etc/resolv.conf`. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { LabError } from "./LabError.ts"
import { requirePrograms } from "./requirePrograms.ts"
import { eventually } from "./scenario.ts"
import type { Topology } from "./topology.ts"

/** The link and the connection; the other links of the host are the lab's. */
const LINK = "nm0"
const CONNECTION = "office"

const CONFIGURATION = `[main]
plugins=keyfile
dns=default
rc-manager=file
no-auto-default=*
auth-polkit=false
[keyfile]
path=/run/NetworkManager/system-connections
unmanaged-devices=*,except:interface-name:${LINK}
[connectivity]
enabled=false
`

/** With a `/sys` that can be written it waits for udev, which is not there. */
const PREPARE = `
mkdir -p /run/NetworkManager
mount -t tmpfs tmpfs /var/lib/NetworkManager
mount -o remount,ro,bind /sys
printf '%s' "$1" > /etc/NetworkManager-lab.conf
ip link add ${LINK} type veth peer name nm1
ip link set nm1 up`

export interface NetworkManager {
  /** Makes them the link's name servers: it writes the file anew. */
  readonly setNameServers: (servers: ReadonlyArray<string>) => Effect.Effect<void, LabError>
}

/** Needs a bus. The link has these name servers and this search domain. */
export const start = (
  topology: Topology,
  servers: ReadonlyArray<string>,
  domain: string
): Effect.Effect<NetworkManager, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["NetworkManager", "nmcli"], "network-manager")
    yield* topology.must("client", ["sh", "-ec", PREPARE, "sh", CONFIGURATION])
    const daemon = yield* topology.daemon("client", "NetworkManager", [
      ...["NetworkManager", "--no-daemon", "--config=/etc/NetworkManager-lab.conf", "--config-dir=/run/none"]
    ])
    const nmcli = (...args: ReadonlyArray<string>) => topology.must("client", ["nmcli", ...args])
    const isUp = yield* eventually(
      Effect.map(topology.run("client", ["nmcli", "general", "status"]), ({ code }) => code === 0),
      10_000
    )
    if (isUp === undefined) return yield* new LabError({ what: "NetworkManager", why: daemon.log().slice(-1000) })
    yield* nmcli(
      ...["connection", "add", "save", "no", "type", "ethernet", "ifname", LINK, "con-name", CONNECTION],
      ...["ipv4.method", "manual", "ipv4.addresses", "10.99.0.2/24", "ipv4.dns", servers.join(",")],
      ...["ipv4.dns-search", domain, "ipv6.method", "disabled", "autoconnect", "no"]
    )
    yield* nmcli("connection", "up", CONNECTION)
    return {
      setNameServers: (servers) =>
        nmcli("connection", "modify", "--temporary", CONNECTION, "ipv4.dns", servers.join(",")).pipe(
          Effect.zipRight(nmcli("connection", "up", CONNECTION)),
          Effect.asVoid
        )
    }
  })
