import type { Envelope } from "../../ffi/linux/rtnetlinkDecode.ts"
import { decodeAddress, decodeLink, decodeRoute, decodeRule } from "../../ffi/linux/rtnetlinkDecode.ts"
import type { AddressMessage, LinkMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import { AF_UNSPEC, IFF, ROUTE_TYPE, RT_TABLE, RTM, RTM_F } from "../../ffi/linux/rtnetlinkLayout.ts"
import { isOurTable } from "../../model/policyRouting.ts"
import type { NetworkChange } from "../../services/NetworkChanges.ts"

const STATE_FLAGS = IFF.UP | IFF.RUNNING | IFF.LOWER_UP
/** What is forgotten is at worst reported once too often. */
const MOST_REMEMBERED = 16_384

const addressKey = ({ address, index, prefixLength }: AddressMessage): string =>
  `${index} ${address.join(".")}/${prefixLength}`

/**
 * Tells the kernel's notifications that could move a route from the others (host spec section 11.6). It has to look at
 * links as much as at routes: IPv4 routes that vanish with their link or their address are not announced.
 */
export class ChangeFilter {
  readonly #tunnelName: string
  #tunnelIndex: number | undefined
  readonly #linkStates = new Map<number, number>()
  readonly #addressFlags = new Map<string, number>()

  constructor(tunnelName: string) {
    this.#tunnelName = tunnelName
  }

  /** Starts again from the kernel's present state. */
  reset(links: ReadonlyArray<LinkMessage>, addresses: ReadonlyArray<AddressMessage>): void {
    this.#tunnelIndex = undefined
    this.#linkStates.clear()
    this.#addressFlags.clear()
    for (const link of links) {
      if (link.name === this.#tunnelName) this.#tunnelIndex = link.index
      this.#linkStates.set(link.index, link.flags & STATE_FLAGS)
    }
    for (const address of addresses) this.#addressFlags.set(addressKey(address), address.flags)
  }

  /** The change that a notification stands for, `undefined` if no route can have moved. */
  handle({ body, type }: Envelope): NetworkChange | undefined {
    switch (type) {
      case RTM.NEWLINK:
      case RTM.DELLINK:
        return this.#link(type, decodeLink(body))
      case RTM.NEWADDR:
      case RTM.DELADDR:
        return this.#address(type, decodeAddress(body))
      case RTM.NEWROUTE:
      case RTM.DELROUTE: {
        const route = decodeRoute(body)
        if (route === undefined || isOurTable(route.table) || (route.flags & RTM_F.CLONED) !== 0) return undefined
        if (route.outputInterface !== undefined && route.outputInterface === this.#tunnelIndex) return undefined
        const group = route.type === ROUTE_TYPE.MULTICAST || route.type === ROUTE_TYPE.BROADCAST
        if (route.table === RT_TABLE.LOCAL && group) return undefined
        return { _tag: "Route", interfaceIndex: route.outputInterface }
      }
      case RTM.NEWRULE:
      case RTM.DELRULE: {
        const rule = decodeRule(body)
        return rule === undefined || isOurTable(rule.table) ? undefined : { _tag: "Rule" }
      }
      default:
        return undefined
    }
  }

  /**
   * Whether our tunnel may have lost something by what was just handed to `handle`. Routes that vanish with their link
   * are not announced, so that link being down stands for them.
   */
  isTunnelLoss({ body, type }: Envelope): boolean {
    switch (type) {
      case RTM.NEWLINK: {
        const link = decodeLink(body)
        return link !== undefined && link.index === this.#tunnelIndex && (link.flags & IFF.UP) === 0
      }
      case RTM.DELADDR: {
        const address = decodeAddress(body)
        return address !== undefined && address.index === this.#tunnelIndex
      }
      case RTM.DELROUTE: {
        const route = decodeRoute(body)
        return route !== undefined && isOurTable(route.table)
      }
      case RTM.DELRULE: {
        const rule = decodeRule(body)
        return rule !== undefined && isOurTable(rule.table)
      }
      default:
        return false
    }
  }

  #link(type: number, link: LinkMessage | undefined): NetworkChange | undefined {
    // Bridges announce their ports under their own family: not a link's state.
    if (link === undefined || link.family !== AF_UNSPEC) return undefined
    const { flags, index, name } = link
    if (name === this.#tunnelName) {
      this.#tunnelIndex = type === RTM.NEWLINK ? index : undefined
      return undefined
    }
    if (index === this.#tunnelIndex) this.#tunnelIndex = undefined // somebody renamed it
    if (type === RTM.DELLINK) {
      this.#linkStates.delete(index)
      return { _tag: "Link", interfaceIndex: index }
    }
    const state = flags & STATE_FLAGS
    if (this.#linkStates.get(index) === state) return undefined
    if (this.#linkStates.size >= MOST_REMEMBERED) this.#linkStates.clear()
    this.#linkStates.set(index, state)
    return { _tag: "Link", interfaceIndex: index }
  }

  #address(type: number, address: AddressMessage | undefined): NetworkChange | undefined {
    if (address === undefined || address.index === this.#tunnelIndex) return undefined
    const key = addressKey(address)
    if (type === RTM.DELADDR) {
      this.#addressFlags.delete(key)
    } else {
      if (this.#addressFlags.get(key) === address.flags) return undefined // its lifetime was renewed
      if (this.#addressFlags.size >= MOST_REMEMBERED) this.#addressFlags.clear()
      this.#addressFlags.set(key, address.flags)
    }
    return { _tag: "Address", interfaceIndex: address.index }
  }
}
