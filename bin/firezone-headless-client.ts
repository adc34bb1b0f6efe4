#!/usr/bin/env node
import { main } from "../src/programs/main.ts"

main(process.argv.slice(2))
