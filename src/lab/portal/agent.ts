/** What the user agent decides (portal spec sections 2.2 and 12.1). */

export type Version = readonly [major: number, minor: number, patch: number]

export interface Agent {
  readonly component: string
  readonly version: Version | undefined
}

const components = {
  client: ["headless-client", "gui-client", "apple-client", "android-client", "connlib"],
  gateway: ["gateway"],
  relay: ["relay"]
} as const

export type Role = keyof typeof components

/** From the first word that begins with one of the role's components; `undefined` if there is none. */
export const parseAgent = (role: Role, userAgent: string): Agent | undefined => {
  for (const word of userAgent.split(" ")) {
    const component = components[role].find((name) => word.startsWith(`${name}/`))
    if (component === undefined) continue
    const [, major, minor, patch] = /^(\d{1,6})\.(\d{1,6})\.(\d{1,6})$/.exec(word.slice(component.length + 1)) ?? []
    return { component, version: patch === undefined ? undefined : [Number(major), Number(minor), Number(patch)] }
  }
  return undefined
}

/** System and version, then component and version, then at will: the portal takes the system from the same text. */
export const isWellLaidOut = (userAgent: string, { component, version }: Agent): boolean =>
  version !== undefined && new RegExp(`^[^/]+/\\S+ ${component}/${version.join("\\.")}(?: |$)`).test(userAgent)

export const isAtLeast = (version: Version | undefined, least: Version): boolean => {
  if (version === undefined) return false
  for (const index of [0, 1, 2] as const) if (version[index] !== least[index]) return version[index] > least[index]
  return true
}

/** One minor version apart at most. */
export const areCompatible = (client: Agent, gateway: Agent): boolean => {
  if (client.version === undefined) return false
  const [major, minor] = client.version
  return isAtLeast(gateway.version, [major, minor - 1, 0]) && !isAtLeast(gateway.version, [major, minor + 2, 0])
}

export const canReachInternet = ({ version }: Agent): boolean => isAtLeast(version, [1, 3, 0])

const firstWithSites: { readonly [component: string]: Version } = {
  "headless-client": [1, 5, 6],
  "gui-client": [1, 5, 10],
  "apple-client": [1, 5, 11],
  "android-client": [1, 5, 8]
}

/** Whether a client calls them sites; before that they were gateway groups. */
export const knowsSites = ({ component, version }: Agent): boolean =>
  isAtLeast(version, firstWithSites[component] ?? [1, 5, 10])
