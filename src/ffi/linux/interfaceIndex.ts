import { lazily } from "./libc.ts"

const ifNameToIndex = lazily<(name: string) => number>("unsigned int if_nametoindex(const char *name)")

/** In this network namespace; `undefined` if there is no such interface. */
export const interfaceIndexOf = (name: string): number | undefined => {
  const index = ifNameToIndex()(name)
  return index === 0 ? undefined : index
}

/** Of a zone, which is an interface's name or index (RFC 4007 section 11.2). */
export const indexOfZone = (zone: string): number | undefined =>
  interfaceIndexOf(zone) ?? (/^[1-9]\d{0,9}$/.test(zone) ? Number(zone) : undefined)
