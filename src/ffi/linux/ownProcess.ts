/** What other processes may learn of this one (prctl(2), getenv(3)). */
import { lazily } from "./libc.ts"

const PR_GET_DUMPABLE = 3
const PR_SET_DUMPABLE = 4

const prctl = lazily<(option: number, value: number) => number>("int prctl(int, unsigned long)")
const getenv = lazily<(name: string) => number | bigint>("int64_t getenv(const char *)")
const strlen = lazily<(text: number | bigint) => number | bigint>("size_t strlen(int64_t)")
const memset = lazily<(at: number | bigint, byte: number, length: number | bigint) => number | bigint>(
  "int64_t memset(int64_t, int, size_t)"
)

/** Whether the kernel writes a core of it, and lets processes of the same user without CAP_SYS_PTRACE look into it. */
export const isDumpable = (): boolean => prctl()(PR_GET_DUMPABLE, 0) === 1

/** Programs that it starts are as ever. */
export const refuseDumps = (): void => void prctl()(PR_SET_DUMPABLE, 0)

/**
 * Overwrites the value of a variable where the kernel put it at the start, which /proc/PID/environ shows for as long as the
 * process lives. Only before it is unset or set anew.
 */
export const wipeVariable = (name: string): void => {
  const at = getenv()(name)
  if (Number(at) !== 0) memset()(at, 0, strlen()(at))
}
