//go:build !race

package simulation

// defaultSeeds is what a test plays unless it is told.
const defaultSeeds = 2000
