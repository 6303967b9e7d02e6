package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/harness"
)

// startUp runs `counterfoil up` with the references of the tenant, on the broker that TEST_KAFKA asks for.
func startUp(b *testing.B) *harness.Up {
	b.Helper()
	up := harness.StartUp(b, harness.Args("--no-demo"))
	describeClickHouse(b, &up.Parts)
	putReferences(&up.Parts)
	return up
}

// usage is CPU time by process.
type usage map[string]time.Duration

// usageOf reads the CPU time that `up` and its children have used so far.
func usageOf(up *harness.Up) usage {
	u := usage{"up": cpuTime(up.PID())}
	for _, part := range []string{embedded.Kafka, embedded.ClickHouse} {
		if pid := embedded.LockHolder(up.Dir + "/" + part); pid != 0 {
			u[part] = cpuTime(pid)
		}
	}
	return u
}

// report adds the CPU time used since before, by process and for each of n items (or rows).
func (u usage) report(b *testing.B, before usage, n int, unit string) {
	for process, total := range u {
		if used := total - before[process]; used > 0 {
			b.ReportMetric(float64(used.Microseconds())/float64(n), fmt.Sprintf("%s-cpu-µs/%s", process, unit))
		}
	}
}

// load stops the process, puts the records on Kafka, lets it go on, and returns how long it then takes until the table has n rows more.
func load(b *testing.B, p *harness.Process, parts *harness.Parts, records []*kgo.Record, table string, n int) time.Duration {
	b.Helper()
	before := count(b, parts, table)
	p.Pause()
	parts.Produce(records...)
	start := time.Now()
	p.Resume()
	return waitRows(b, parts, table, before, n, start)
}

// waitRows waits until the table has n rows more than before, and returns how long that was since start.
func waitRows(b *testing.B, parts *harness.Parts, table string, before, n int, start time.Time) time.Duration {
	b.Helper()
	for deadline := start.Add(3 * time.Minute); ; {
		have := count(b, parts, table) - before
		if have == n {
			return time.Since(start)
		}
		if have > n || time.Now().After(deadline) {
			b.Fatalf("table %s has %d rows more, not %d", table, have, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func count(b *testing.B, parts *harness.Parts, table string) int {
	b.Helper()
	var n uint64
	if err := parts.Conn().QueryRow(b.Context(), "SELECT count() FROM "+table).Scan(&n); err != nil {
		b.Fatal(err)
	}
	return int(n)
}
