/** The user agent, from which the portal reads the component and its version (portal spec sections 2.2 and 12.1). */

/** The reference versions whose rules we follow; the portal decides by them what we may be told. */
const announced = { client: "headless-client/1.5.12", gateway: "gateway/1.6.1" } as const

export interface HostFacts {
  /** Such as `Debian`. */
  readonly osType: string
  /** Such as `12.0.0`. */
  readonly osVersion: string
  /** Such as `x86_64`. */
  readonly arch?: string | undefined
  readonly kernel?: string | undefined
}

/** Printable ASCII without what would end a field early. */
const field = (text: string): string => text.replaceAll(/[^\x21-\x7e]|[()/;]/g, "")

/** `{os}/{version} {component}/{semver} ({arch}; {kernel}) {own product}`; at most 255 characters count. */
export const userAgent = (role: "client" | "gateway", host: HostFacts, ownVersion: string): string => {
  const details = [host.arch, host.kernel].map((text) => field(text ?? "")).filter((text) => text !== "")
  return [
    `${field(host.osType) || "Unknown"}/${field(host.osVersion) || "0.0.0"}`,
    announced[role],
    ...(details.length === 0 ? [] : [`(${details.join("; ")})`]),
    // Must not contain a component's token: the portal looks for those anywhere in the text.
    `firezone-node/${field(ownVersion) || "0.0.0"}`
  ].join(" ")
}

/** Pads to three numbers without leading zeros, as the portal's other clients write it: `24.04` gives `24.4.0`. */
export const semanticVersion = (text: string): string => {
  const numbers = text.split(".").slice(0, 3).map((part) => Number(/^\d{1,9}/.exec(part)?.[0] ?? "0"))
  while (numbers.length < 3) numbers.push(0)
  return numbers.join(".")
}
