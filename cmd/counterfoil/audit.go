package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/audit"
)

// exitFound is the exit code of an audit that found differences.
const exitFound = 3

func auditCommand() *command {
	var since string
	var opts audit.Options
	var asJSON bool
	return &command{
		name:    "audit",
		args:    "[--since DURATION|TIME] [--tenant TENANT] [--json]",
		summary: "prove that each accepted item has one outcome and that ClickHouse equals Kafka",
		help: `Compares the topics with each other and with the tables, and names every difference with its position and what to do about it:
  rows      each record of the result topics, of batches and of dead_letters has its row in every log table, once, and no other row is there
  items     each record of an item topic was settled once: by an outcome that names it, a forwarded copy, or a dead letter
  batches   each header announced as many items as have an outcome
  outcomes  no attempt at an item has two
  requests  each request with an Idempotency-Key has one answer, and its batch where that says so
  versions  each record of a reference or fact topic, or a later one of its own id, is in its table
  copies    what everybody owns now, and facts by customer, number and MHID, say what the tables that they are made of say, contents included
Of the row of an outcome it compares the identity: which record and which item it is of, that it is there once, and in its order. What the other
columns say is not compared: a row is in its table whole or not at all.

It changes nothing, and runs beside everything else: it fixes how far it looks at the start and waits until the processors and the sink are past
that. So they must run; one that does not move for --stuck is an error. Memory is bounded whatever the topics hold; time is not: all records
since --since are read once.

Exit codes: 0 proven, 1 an error (nothing is known), 2 wrong usage, 3 differences were found.

Examples:
  counterfoil audit
  counterfoil audit --since 26h --json          (from cron, once a day)
  counterfoil audit --since 2026-03-01T00:00:00Z --tenant acme`,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&since, "since", "", "only what was accepted since then: a `duration` back (90m, 26h), a day (2026-03-01), or an instant with its zone (default: everything)")
			f.StringVar(&opts.Tenant, "tenant", "", "only what is of this tenant")
			f.BoolVar(&asJSON, "json", false, "print the report as one JSON object")
			f.DurationVar(&opts.Stuck, "stuck", time.Minute, "how long to wait for a processor or the sink that does not move")
			f.IntVar(&opts.Most, "most", 100, "how many differences of one check are named; the others are counted")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			switch {
			case len(args) > 0:
				return badUsage("it takes no argument %q", args[0])
			case opts.Most < 1:
				return badUsage("--most is %d: choose 1 or more", opts.Most)
			case opts.Stuck <= 0:
				return badUsage("--stuck is %s: choose more than 0", opts.Stuck)
			}
			var err error
			if opts.Since, err = parseMoment("--since", since, time.Now()); err != nil {
				return err
			}
			if opts.Tenant != "" {
				if err := checkTenant(opts.Tenant); err != nil {
					return err
				}
			}
			report, err := runAudit(ctx, app, opts)
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(app.stdout).Encode(auditJSON{report, report.Proven()})
			} else {
				err = printAudit(app.stdout, report)
			}
			if err == nil && !report.Proven() {
				err = &exitError{exitFound, errors.New("differences were found")}
			}
			return err
		},
	}
}

// parseMoment reads a duration back from now, a day in UTC, or an instant, all in the past; the zero time for an empty text.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil && t.Before(now) {
			return t, nil
		}
	}
	return time.Time{}, badUsage("%s is %q: write a duration like 26h, a day like 2026-03-01 or an instant like 2026-03-01T00:00:00Z, in the past", flag, text)
}

// runAudit connects and audits.
func runAudit(ctx context.Context, app *app, opts audit.Options) (*audit.Report, error) {
	in, err := attend(ctx, app)
	if err != nil {
		return nil, err
	}
	defer in.leave()
	return audit.Run(ctx, audit.Deps{
		Admin: in.adm, Conn: in.conn, Registry: in.registry, Epochs: in.epochs, Judges: judges(), Progress: in.say, Read: newTopicReader(in.kafka, in.log).read,
	}, opts)
}

// auditJSON is what --json prints.
type auditJSON struct {
	*audit.Report
	Proven bool `json:"proven"`
}

// auditNouns say what each check compares.
var auditNouns = map[string]string{
	audit.CheckTables:   "records have their rows",
	audit.CheckItems:    "items have one outcome",
	audit.CheckBatches:  "batches are whole",
	audit.CheckOutcomes: "outcomes are of different items or attempts",
	audit.CheckRequests: "requests with an Idempotency-Key have one answer",
	audit.CheckState:    "references and facts have arrived",
	audit.CheckCopies:   "tables made of others say the same",
}

func printAudit(out io.Writer, r *audit.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "CHECK\tCOMPARED\tDIFFERENCES\tPROVES THAT\n")
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, grouped(c.Compared), grouped(c.Found), auditNouns[c.Name])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	named := map[string]int64{}
	for _, f := range r.Findings {
		named[f.Check]++
		fmt.Fprintf(out, "\n%s %s", f.Check, f.At())
		for _, more := range []struct{ name, value string }{{"table", f.Table}, {"tenant", f.Tenant}, {"id", f.Item}} {
			if more.value != "" {
				fmt.Fprintf(out, ", %s %s", more.name, more.value)
			}
		}
		fmt.Fprintf(out, "\n  %s\n  To do: %s\n", f.Problem, f.Do)
	}
	for _, c := range r.Checks {
		if more := c.Found - named[c.Name]; more > 0 {
			fmt.Fprintf(out, "\n%s: and %s more (--most names more of them)\n", c.Name, grouped(more))
		}
	}
	of := "everything"
	if r.Since != nil {
		of = "everything since " + r.Since.Format(time.RFC3339)
	}
	if r.Tenant != "" {
		of += " of tenant " + r.Tenant
	}
	verdict := "Proven"
	if !r.Proven() {
		verdict = "Not proven"
	}
	_, err := fmt.Fprintf(out, "\n%s: %s that was accepted before %s.\n", verdict, of, r.Began.Format(time.RFC3339))
	return err
}
