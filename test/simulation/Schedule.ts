interface Task {
  readonly at: number
  /** What was planned first for a time comes first: nothing is reordered by accident. */
  readonly order: number
  readonly run: () => void
}

/** What is to happen in virtual time: a binary heap. */
export class Schedule {
  readonly #heap: Array<Task> = []
  #planned = 0

  /** When the first of it is due. */
  get next(): number {
    return this.#heap[0]?.at ?? Number.POSITIVE_INFINITY
  }

  add(at: number, run: () => void): void {
    const heap = this.#heap
    const task: Task = { at, order: this.#planned++, run }
    let index = heap.length
    heap.push(task)
    while (index > 0) {
      const parent = index - 1 >> 1
      const above = heap[parent] as Task
      if (isBefore(above, task)) break
      heap[index] = above
      index = parent
    }
    heap[index] = task
  }

  /** Removes the first of it, if that is due. */
  take(now: number): (() => void) | undefined {
    const heap = this.#heap
    const [first] = heap
    if (first === undefined || first.at > now) return undefined
    const last = heap.pop() as Task
    if (heap.length > 0) this.#sink(last)
    return first.run
  }

  #sink(task: Task): void {
    const heap = this.#heap
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      const [left, right] = [heap[child], heap[child + 1]]
      if (left === undefined) break
      if (right !== undefined && isBefore(right, left)) child += 1
      const below = heap[child] as Task
      if (isBefore(task, below)) break
      heap[index] = below
      index = child
    }
    heap[index] = task
  }
}

const isBefore = (left: Task, right: Task): boolean =>
  left.at < right.at || (left.at === right.at && left.order < right.order)
