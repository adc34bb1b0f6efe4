import { indexOfZone } from "../../ffi/linux/interfaceIndex.ts"
import { encodeSockaddr } from "../../ffi/linux/socket.ts"
import { ipToBytes, type SocketAddress, zoneOf } from "../../protocol/wire/address.ts"

/** With the scope of link-local addresses; of an interface that is gone there is none, and the kernel refuses it. */
export const sockaddrOf = ({ address, port }: SocketAddress): Uint8Array => {
  const zone = zoneOf(address)
  return encodeSockaddr(ipToBytes(address), port, zone === undefined ? 0 : indexOfZone(zone))
}
