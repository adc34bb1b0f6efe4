/**
 * Symbols of the OpenSSL that is linked into the node executable. The system's libcrypto is never loaded: it exports
 * the same names in another version, and the two together crash the process.
 */
import koffi from "koffi"

type Library = ReturnType<typeof koffi.load>
let library: Library | undefined

/**
 * Binds C functions of the node executable. Pointers are declared `int64_t` and passed as numbers. Fails by returning
 * the reason: a build of node against a shared OpenSSL does not export everything.
 */
export const bindFromExecutable = <T extends Record<string, unknown>>(
  declarations: { readonly [K in keyof T]: string }
): T | string => {
  try {
    library ??= koffi.load(null)
    const bound: Record<string, unknown> = {}
    for (const [name, declaration] of Object.entries(declarations)) bound[name] = library.func(declaration as string)
    return bound as T
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
