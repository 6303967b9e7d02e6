//go:build race

package simulation

// defaultSeeds is what a test plays unless it is told: a run is one goroutine at a time, in which the race detector finds nothing and takes
// twenty times as long.
const defaultSeeds = 100
