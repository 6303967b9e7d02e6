package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// Deps are what an audit works with.
type Deps struct {
	Admin    *kadm.Client
	Conn     *clickhouse.Conn
	Registry *schemas.Registry
	Epochs   schemas.Epochs
	// Read reads a topic's committed records, each partition p from from[p] to below to[p], and calls each for every one until it returns false.
	Read func(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (bool, error)) error
	// Judges are the processors' groups, with the topics that each of them reads.
	Judges map[string][]string
	// Progress is told what is being done, several times a second.
	Progress func(doing string)
}

// Options say what to audit.
type Options struct {
	Since  time.Time     // only what was accepted then or later; zero: everything
	Tenant string        // only what is of this tenant; empty: of all
	Stuck  time.Duration // how long to wait for a processor or the sink that does not move
	Most   int           // how many findings of one check are named; the others are counted
	Width  int64         // offsets of a run; 0: 65,536
}

// Names of checks, as reports show them.
const (
	CheckTables   = "rows"     // of log tables equal their records
	CheckItems    = "items"    // have one outcome each
	CheckBatches  = "batches"  // are whole
	CheckOutcomes = "outcomes" // are of different items or attempts
	CheckRequests = "requests" // with an Idempotency-Key have one answer each
	CheckState    = "versions" // of references and facts have arrived
	CheckCopies   = "copies"   // say what the tables say that they are made of
)

// Check is what one check has looked at.
type Check struct {
	Name     string `json:"name"`
	Compared int64  `json:"compared"` // records, items, batches, outcomes, requests, rows
	Found    int64  `json:"found"`    // differences, those that are not named included
}

// Finding is a difference.
type Finding struct {
	Check     string `json:"check"`
	Problem   string `json:"problem"`
	Topic     string `json:"topic,omitempty"` // of the record that it is about, or would be
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Table     string `json:"table,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	Item      string `json:"item,omitempty"` // identity; of batches and requests the batch's key
	Do        string `json:"do"`
}

// At is where the record lies, or the table that has a finding that no record is to blame for.
func (f *Finding) At() string {
	if f.Topic == "" {
		return f.Table
	}
	return fmt.Sprintf("%s/%d@%d", f.Topic, f.Partition, f.Offset)
}

// Report is the result of an audit.
type Report struct {
	Began    time.Time  `json:"began"` // everything that was accepted before is proven or found
	Since    *time.Time `json:"since,omitempty"`
	Tenant   string     `json:"tenant,omitempty"`
	Checks   []Check    `json:"checks"`
	Findings []Finding  `json:"findings"`
}

// Proven reports whether nothing was found.
func (r *Report) Proven() bool {
	return !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Found > 0 })
}

// Run audits. An error means that nothing is known.
func Run(ctx context.Context, deps Deps, opts Options) (*Report, error) {
	if opts.Width == 0 {
		opts.Width = 1 << 16
	}
	a := &auditor{Deps: deps, Options: opts, report: &Report{Began: time.Now().UTC(), Tenant: opts.Tenant, Findings: []Finding{}}, decode: newDecoders(deps.Registry, deps.Epochs)}
	if !opts.Since.IsZero() {
		since := opts.Since.UTC()
		a.report.Since = &since
	}
	if err := a.fixBounds(ctx); err != nil {
		return nil, err
	}
	for _, check := range []struct {
		name string
		run  func(context.Context) error
	}{
		{CheckTables, a.checkTables}, {CheckItems, a.checkItems}, {CheckBatches, a.checkBatches}, {CheckOutcomes, a.checkOutcomes},
		{CheckRequests, a.checkRequests}, {CheckState, a.checkState}, {CheckCopies, a.checkCopies},
	} {
		a.report.Checks = append(a.report.Checks, Check{Name: check.name})
		if err := check.run(ctx); err != nil {
			return nil, err
		}
	}
	return a.report, nil
}

// auditor is one run.
type auditor struct {
	Deps
	Options
	report *Report
	decode *decoders
	from   map[string][]int64 // by topic and partition: the first offset that counts
	to     map[string][]int64 // the offset behind the last; of item topics that of the last that may be a forwarded copy
	judged map[string][]int64 // of item topics, requests and batches: the offset behind the last that has come to rest
	// settled is what became of the records of item topics, filled while the result topics are read.
	settled  map[string]sums
	outcomes int64 // that were compared with their rows
	read     int64 // records so far, for the progress
}

// now is the check that runs.
func (a *auditor) now() *Check { return &a.report.Checks[len(a.report.Checks)-1] }

// found notes a difference.
func (a *auditor) found(f Finding) {
	check := a.now()
	check.Found++
	f.Check = check.Name
	if check.Found <= int64(a.Most) {
		a.report.Findings = append(a.report.Findings, f)
	}
}

// enough reports whether the check that runs has named as many differences as it may.
func (a *auditor) enough() bool { return a.now().Found >= int64(a.Most) }

// scan reads a topic and says how far it is.
func (a *auditor) scan(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) error) error {
	return a.Read(ctx, topic, from, to, func(rec *kgo.Record) (bool, error) {
		if a.read++; a.read%1000 == 0 {
			a.Progress(fmt.Sprintf("%s: reading %s (%d of %d in partition %d), %d records so far", a.now().Name, topic, rec.Offset, to[rec.Partition], rec.Partition, a.read))
		}
		return true, each(rec)
	})
}

// run is consecutive offsets of a partition, by number.
type run struct {
	partition int32
	number    int64
}

// sums describe a topic's records by runs.
type sums map[run]clickhouse.LogSum

func (s sums) add(width int64, r *clickhouse.LogRow) {
	at := run{r.Partition, r.Offset / width}
	sum := s[at]
	sum.Add(r)
	s[at] = sum
}

// differ are the runs in which two sides differ, in their order.
func differ(a, b sums) []run {
	var all []run
	for at, sum := range a {
		if b[at] != sum {
			all = append(all, at)
		}
	}
	for at := range b {
		if _, ok := a[at]; !ok {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(x, y run) int {
		if x.partition != y.partition {
			return int(x.partition - y.partition)
		}
		return int(min(1, max(-1, x.number-y.number)))
	})
	return all
}

// within is the part of a run that lies between two bounds.
func (a *auditor) within(at run, from, to []int64) clickhouse.LogRange {
	return clickhouse.LogRange{
		Partition: at.partition, From: max(at.number*a.Width, from[at.partition]), To: min((at.number+1)*a.Width, to[at.partition]),
	}
}

// only are bounds for [Deps].Read that hold one partition's range.
func only(r clickhouse.LogRange, partitions int) (from, to []int64) {
	from, to = make([]int64, partitions), make([]int64, partitions)
	from[r.Partition], to[r.Partition] = r.From, r.To
	return from, to
}
