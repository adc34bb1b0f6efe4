/** The devices that the portal knows: who they are, their addresses, and their channel while they have one. */
import { ip, ipFromBytes, ipToBytes, networkContains, parseIp, parseNetwork } from "../../protocol/wire/address.ts"
import { type Device, deviceId } from "./derivations.ts"
import type { Login } from "./login.ts"
import type { Session } from "./Session.ts"

const MAX_DEVICES = 10_000
const LAST_REQUESTS = 50
const network4 = parseNetwork("100.64.0.0/11")
const network6 = parseNetwork("fd00:2021:1111::/107")

export interface SeenRequest {
  readonly event: string
  readonly payload: unknown
}

export class DeviceRecord implements Device {
  readonly role: "client" | "gateway"
  readonly id: string
  readonly externalId: string
  readonly pskBase: Uint8Array
  ipv4: string
  ipv6: string
  /** Of the latest connection, which may be over. */
  login: Login
  /** The joined one. */
  session: Session | undefined
  connects = 0
  /** By event, of all connections; events that nobody knows are not counted. */
  readonly messages: { [event: string]: number } = {}
  /** The oldest first. */
  readonly lastRequests: Array<SeenRequest> = []

  constructor(
    role: "client" | "gateway",
    login: Login,
    pskBase: Uint8Array,
    addresses: { readonly ipv4: string; readonly ipv6: string }
  ) {
    this.role = role
    this.id = deviceId(role, login.externalId)
    this.externalId = login.externalId
    this.pskBase = pskBase
    this.login = login
    this.ipv4 = addresses.ipv4
    this.ipv6 = addresses.ipv6
  }

  get publicKey(): string {
    return this.login.publicKey
  }

  count(event: string): void {
    this.messages[event] = (this.messages[event] ?? 0) + 1
  }

  remember(request: SeenRequest): void {
    this.lastRequests.push(request)
    if (this.lastRequests.length > LAST_REQUESTS) this.lastRequests.shift()
  }
}

export class Devices {
  readonly #randomBytes: (length: number) => Uint8Array
  readonly #byId = new Map<string, DeviceRecord>()
  #addressed = 0

  constructor(randomBytes: (length: number) => Uint8Array) {
    this.#randomBytes = randomBytes
  }

  get all(): ReadonlyArray<DeviceRecord> {
    return [...this.#byId.values()]
  }

  byId(id: string): DeviceRecord | undefined {
    return this.#byId.get(id)
  }

  /** The device that signs in, an old acquaintance or not; `undefined` if there are too many. */
  signIn(login: Login, role: "client" | "gateway"): DeviceRecord | undefined {
    const known = this.#byId.get(deviceId(role, login.externalId))
    if (known !== undefined) {
      known.login = login
      known.connects += 1
      return known
    }
    if (this.#byId.size >= MAX_DEVICES) return undefined
    const device = new DeviceRecord(role, login, this.#randomBytes(32), this.#nextAddresses())
    device.connects = 1
    this.#byId.set(device.id, device)
    return device
  }

  /** Throws if an address is not one of the tunnel's, or another device's. */
  readdress(device: DeviceRecord, { ipv4, ipv6 }: { readonly ipv4?: string; readonly ipv6?: string }): void {
    for (const [text, network] of [[ipv4, network4], [ipv6, network6]] as const) {
      if (text === undefined) continue
      const address = parseIp(text)
      if (address === undefined || address !== text || network === undefined || !networkContains(network, address)) {
        throw new Error(`${text} is no address of the tunnel's networks`)
      }
      if (this.#isTaken(text, device)) throw new Error(`${text} belongs to another device`)
    }
    device.ipv4 = ipv4 ?? device.ipv4
    device.ipv6 = ipv6 ?? device.ipv6
  }

  #isTaken(address: string, except?: DeviceRecord): boolean {
    return this.all.some((device) => device !== except && (device.ipv4 === address || device.ipv6 === address))
  }

  #nextAddresses(): { readonly ipv4: string; readonly ipv6: string } {
    for (;;) {
      this.#addressed += 1
      const ipv4 = nth("100.64.0.0", 4, this.#addressed)
      const ipv6 = nth("fd00:2021:1111::", 6, this.#addressed)
      if (!this.#isTaken(ipv4) && !this.#isTaken(ipv6)) return { ipv4, ipv6 }
    }
  }
}

const nth = (network: string, family: 4 | 6, index: number): string => {
  const bytes = ipToBytes(ip(network))
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  view.setUint32(bytes.length - 4, view.getUint32(bytes.length - 4) + index)
  return ipFromBytes(bytes, 0, family)
}
