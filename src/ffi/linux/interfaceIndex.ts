import { lazily } from "./libc.ts"

const ifNameToIndex = lazily<(name: string) => number>("unsigned int if_nametoindex(const char *name)")

/** In this network namespace; `undefined` if there is no such interface. */
export const interfaceIndexOf = (name: string): number | undefined => {
  const index = ifNameToIndex()(name)
  return index === 0 ? undefined : index
}
