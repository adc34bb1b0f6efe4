declare const __VERSION__: string | undefined

/** The package's version: put in by the build; `0.0.0-dev` when the sources run as they are. */
export const version: string = typeof __VERSION__ === "string" ? __VERSION__ : "0.0.0-dev"
