/** Interfaces of a test's own network namespace, and what iproute2 says of them. */
import { ip, run } from "./netns.ts"

/** What `ip -json` prints of links, addresses, routes and rules, as far as the tests look at it. */
export interface IpObject {
  readonly ifname?: string
  readonly ifindex?: number
  readonly flags?: ReadonlyArray<string>
  readonly operstate?: string
  readonly mtu?: number
  readonly txqlen?: number
  readonly addr_info?: ReadonlyArray<{ readonly local: string; readonly prefixlen: number }>
  readonly dst?: string
  readonly dev?: string
  readonly gateway?: string
  readonly scope?: string
  readonly prefsrc?: string
  readonly metric?: number
  readonly type?: string
  readonly priority?: number
  readonly not?: null
  readonly fwmark?: string
  readonly table?: string
  readonly protocol?: string
}

/** `ip -json` with its arguments in one string. An empty answer is an empty list. */
export const ipJson = (args: string): ReadonlyArray<IpObject> => {
  const text = run("ip", "-json", ...args.split(" ")).trim()
  return text === "" ? [] : JSON.parse(text)
}

/** The first object; there must be one. */
export const ipFirst = (args: string): IpObject => {
  const [first] = ipJson(args)
  if (first === undefined) throw new Error(`ip ${args}: nothing`)
  return first
}

export const linkExists = (name: string): boolean => ipJson("link show").some(({ ifname }) => ifname === name)

/**
 * An up interface named `name` whose other end, `${name}-peer`, is up too; without link-local addresses. The kernel tells
 * of a carrier a little later, so this waits for it: what a test sees afterwards is the test's doing.
 */
export const addLink = (name: string): void => {
  ip(`link add ${name} type veth peer name ${name}-peer`)
  for (const end of [name, `${name}-peer`]) ip(`link set ${end} addrgenmode none`)
  for (const end of [`${name}-peer`, name]) ip(`link set ${end} up`)
  waitFor(
    `the carrier of ${name}`,
    () =>
      ipJson("link show").filter(({ ifname, operstate }) => ifname?.startsWith(name) && operstate === "UP").length === 2
  )
}

/** Takes the other end down, and waits until `name` knows. */
export const loseCarrier = (name: string): void => {
  ip(`link set ${name}-peer down`)
  waitFor(`the end of the carrier of ${name}`, () => ipFirst(`link show dev ${name}`).operstate !== "UP")
}

/** Adds an IPv6 address and waits for its local route, which the kernel makes a little later. */
export const addAddress6 = (device: string, address: string): void => {
  ip(`addr add ${address} dev ${device} nodad`)
  const [local] = address.split("/")
  waitFor(`the local route of ${address}`, () => ipJson("-6 route show table local").some(({ dst }) => dst === local))
}

/** Synchronous: nothing else of the test goes on meanwhile. */
const waitFor = (what: string, holds: () => boolean): void => {
  const deadline = performance.now() + 5000
  while (!holds()) if (performance.now() > deadline) throw new Error(`waited in vain for: ${what}`)
}
