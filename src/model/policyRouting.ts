/** How our own packets are told from the tunnel's on Linux (host spec sections 1 and 8.4). */

/** `SO_MARK` of every socket of ours: its packets skip the three rules below. */
export const SOCKET_MARK = 0xfd002021

/** The interface name that the tunnel has on Linux, and the adapter name on Windows. */
export const TUNNEL_NAME_LINUX = "tun-firezone"
export const TUNNEL_NAME_WINDOWS = "Firezone"

/** IFNAMSIZ without the terminating zero. */
export const MAX_INTERFACE_NAME = 15

/** As the Linux kernel takes it, which would put a number of its own in the place of `%d`. */
export const isInterfaceName = (text: string): boolean =>
  /^[^\s/%:]+$/.test(text) && text !== "." && text !== ".." && Buffer.byteLength(text) <= MAX_INTERFACE_NAME

/** Clients that can run side by side in one network namespace; each has tables and rules of its own. */
export const MAX_INSTANCES = 4

export interface PolicyTable {
  readonly table: number
  readonly priority: number
}

/**
 * The three tables in the order in which the rules ask them. The first client, number 0, has what host spec section 1
 * says. Later ones are asked before it: what they have routed to themselves are parts of its networks
 * (`protocol/tunnel/clientRanges.ts`).
 */
export const tablesOf = (instance: number) =>
  ({
    /** Resources. */
    user: { table: 0x2021fd00 + 4 * instance, priority: 100 - instance },
    /** Copies of the routes of the local networks, so that they beat the internet resource. */
    linkScope: { table: 0x2021fd01 + 4 * instance, priority: 200 - instance },
    /** The default routes of the internet resource. */
    internet: { table: 0x2021fd02 + 4 * instance, priority: 300 - instance }
  }) as const satisfies { readonly [name: string]: PolicyTable }

export type PolicyTables = ReturnType<typeof tablesOf>

export const TABLES = tablesOf(0)

const ours: ReadonlySet<number> = new Set(
  Array.from({ length: MAX_INSTANCES }, (_, instance) => Object.values(tablesOf(instance))).flat()
    .map(({ table }) => table)
)
/** Whichever client of this machine it belongs to. */
export const isOurTable = (table: number): boolean => ours.has(table)

/** What every packet on the tunnel must fit in (`MAX_IP_SIZE`). */
export const TUNNEL_MTU = 1280
