// Report passes the output of benchmarks through and ends it with one table: what was measured, what was aimed for, and how the two relate.
//
//	go test -run '^$' -bench . ./test/bench | go run ./test/bench/report
//
// It reads Go's benchmark format. Where a benchmark ran several times, or in several variants of one aim, the best figure counts; of
// memory the worst. It fails where the input shows that a benchmark failed, not where an aim is missed: that depends on the machine.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	if err := report(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// aim is a line of the table.
type aim struct {
	what  string
	bench *regexp.Regexp // names of the benchmarks that measure it, without the number of CPUs
	unit  string
	value float64
	// lower figures are better; of several the worst counts with most.
	lower, most bool
}

// aims are what the product sets out to reach on a machine with two CPUs. Lines without one are there to be compared.
var aims = []aim{
	{what: "Kafka to outcome in ClickHouse, customer events", bench: name("Kafka/customer_events"), unit: "items/s", value: 60_000},
	{what: "Kafka to outcome in ClickHouse, ownership", bench: name("Kafka/ownership"), unit: "items/s", value: 60_000},
	{what: "sink alone, customer events (110 columns)", bench: name("Sink/customer_events"), unit: "rows/s"},
	{what: "sink alone, 9-field Avro (table batches)", bench: name("Sink/(nine_columns|batches)"), unit: "rows/s", value: 700_000},
	{what: "CRM.COM, calls of 1,000 web events", bench: name("HTTP/web/callers=.*"), unit: "rows/s", value: 25_000},
	{what: "CRM.COM, calls of 1,000 purchases of 2 lines", bench: name("HTTP/purchases/callers=.*"), unit: "rows/s", value: 25_000},
	{what: "CRM.COM, lone call of one row, median", bench: name("HTTP/latency/crm"), unit: "p50-ms", value: 25, lower: true},
	{what: "CRM.COM, lone call of one row, 99th percentile", bench: name("HTTP/latency/crm"), unit: "p99-ms", value: 80, lower: true},
	{what: "HelloID, lone call of one row, median", bench: name("HTTP/latency/helloid"), unit: "p50-ms", value: 25, lower: true},
	{what: "HelloID, lone call of one row, 99th percentile", bench: name("HTTP/latency/helloid"), unit: "p99-ms", value: 80, lower: true},
	{what: "sales matched, Kafka to outcome in ClickHouse", bench: name("Sales/kafka"), unit: "sales/s", value: 40_000},
	{what: "sales matched, Mediahawk batches of 1,000 to outcome in ClickHouse", bench: name("Sales/mediahawk/callers=.*"), unit: "sales/s", value: 20_000},
	{what: "10,000 caller numbers in one query", bench: name("FindCalls/calls=.*/numbers"), unit: "p50-ms", value: 1000, lower: true},
	{what: "Avon, lone call of one transaction, median", bench: name("Avon/latency"), unit: "p50-ms", value: 25, lower: true},
	{what: "Avon, lone call of one transaction, 99th percentile", bench: name("Avon/latency"), unit: "p99-ms", value: 80, lower: true},
	{what: "Avon, calls of 1,000 transactions, JSON", bench: name("Avon/json"), unit: "rows/s"},
	{what: "Avon, calls of 1,000 transactions, JSV", bench: name("Avon/jsv"), unit: "rows/s"},
	{what: "Avon, calls of 1,000 transactions, XML", bench: name("Avon/xml"), unit: "rows/s"},
	{what: "Avon, calls of 1,000 transactions, CSV", bench: name("Avon/csv"), unit: "rows/s"},
	{what: "Avon, calls of 1,000 transactions, form", bench: name("Avon/form"), unit: "rows/s"},
	{what: "/v1, calls of 1,000 customer events, JSON", bench: name("V1/json"), unit: "rows/s"},
	{what: "/v1, calls of 1,000 customer events, NDJSON", bench: name("V1/ndjson"), unit: "rows/s"},
	{what: "Caliq, report of 10,000 lines, orders, 99th percentile", bench: name("Report/based_on=O"), unit: "p99-ms", value: 50, lower: true},
	{what: "Caliq, report of 10,000 lines, invoices, 99th percentile", bench: name("Report/based_on=I"), unit: "p99-ms", value: 50, lower: true},
	{what: "memory of the Go process, idle", bench: name("HTTP/idle"), unit: "rss-MB", value: 150, lower: true},
	{what: "memory of the Go process, under CRM.COM calls", bench: name("HTTP/(web|purchases)/.*"), unit: "rss-MB", value: 600, lower: true, most: true},
}

func name(pattern string) *regexp.Regexp { return regexp.MustCompile("^Benchmark" + pattern + "$") }

// result is a line of the benchmark format.
type result struct {
	name    string
	metrics map[string]float64
}

// cpus is the end of a benchmark's name: the value of GOMAXPROCS.
var cpus = regexp.MustCompile(`-\d+$`)

func parse(line string) (result, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return result{}, false
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return result{}, false
	}
	r := result{cpus.ReplaceAllString(fields[0], ""), map[string]float64{}}
	for i := 2; i+1 < len(fields); i += 2 {
		value, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return result{}, false
		}
		r.metrics[fields[i+1]] = value
	}
	return r, true
}

// configuration is a line like "cpu: AMD EPYC".
var configuration = regexp.MustCompile(`^([a-z]+): +(.*)$`)

func report(in io.Reader, out io.Writer) error {
	var results []result
	var about []string
	failed := false
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(out, line)
		if r, ok := parse(line); ok {
			results = append(results, r)
		}
		if m := configuration.FindStringSubmatch(line); m != nil && m[1] != "pkg" {
			if text := m[1] + " " + m[2]; !slices.Contains(about, text) {
				about = append(about, text)
			}
		}
		failed = failed || strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL")
	}
	if err := lines.Err(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n\n", strings.Join(about, ", "))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tfigure\taim\tratio\tmeasured by")
	fmt.Fprintln(w, "----\t------\t---\t-----\t-----------")
	for _, a := range aims {
		value, by, ok := a.best(results)
		if !ok {
			continue
		}
		// A ratio of more than 1 is better than the aim, whatever the unit.
		goal, ratio := "-", "-"
		if a.value > 0 {
			goal = number(a.value)
			if a.lower {
				ratio = fmt.Sprintf("%.2f", a.value/value)
			} else {
				ratio = fmt.Sprintf("%.2f", value/a.value)
			}
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\n", a.what, number(value), strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(a.unit, "p50-"), "p99-"), "rss-"), goal, ratio, by)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := processors(results, out); err != nil {
		return err
	}
	if failed {
		return fmt.Errorf("a benchmark failed")
	}
	return nil
}

// best is the figure that counts for an aim, and the benchmark that measured it.
func (a *aim) best(results []result) (value float64, by string, ok bool) {
	for _, r := range results {
		v, has := r.metrics[a.unit]
		if !has || !a.bench.MatchString(r.name) {
			continue
		}
		if !ok || (v < value) == (a.lower && !a.most) {
			value, by, ok = v, r.name, true
		}
	}
	return value, by, ok
}

// processors prints the CPU time of each process: what bounds a rate when all CPUs are busy, and a steadier figure than it.
func processors(results []result, out io.Writer) error {
	const mark = "-cpu-µs/"
	var names []string // of processes
	for _, r := range results {
		for unit := range r.metrics {
			if process, _, ok := strings.Cut(unit, mark); ok && !slices.Contains(names, process) {
				names = append(names, process)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	fmt.Fprint(out, "\nCPU time, µs for each item, row or call; the last column is the rate at which that is all of one CPU\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "benchmark\t%s\tsum\ta second of CPU\n", strings.Join(names, "\t"))
	for _, r := range results {
		sum, cells := 0.0, make([]string, len(names))
		for unit, value := range r.metrics {
			if process, _, ok := strings.Cut(unit, mark); ok {
				cells[slices.Index(names, process)] = fmt.Sprintf("%.1f", value)
				sum += value
			}
		}
		if sum > 0 {
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\n", r.name, strings.Join(cells, "\t"), sum, number(1e6/sum))
		}
	}
	return w.Flush()
}

// number writes large figures with separators, and small ones with one decimal.
func number(v float64) string {
	if v < 1000 {
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
