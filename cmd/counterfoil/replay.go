package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/replay"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
)

// exitOpen is the exit code of a replay that left items unprocessed.
const exitOpen = 3

func replayCommand() *command {
	var opts replayArgs
	return &command{
		name:    "replay",
		args:    "SELECTION [--dry-run] [--json]",
		summary: "put unprocessed items or dead letters through again",
		help: `Puts items whose last attempt is unprocessed through again, each as the next attempt at the same item: when what they needed has arrived (an
account, a call), or a fault of ours is mended. Its batch then shows the new outcome in place of the old one; the caller who sent it is not told.
With --dead-letters it puts records back that could not be read: when their schema has been registered.

What is selected must match all flags that are given; without any, everything that is open is selected only with --all. Look first:
--dry-run judges with today's code, references, calls and state, and changes nothing.

Replaying twice is replaying once. What was processed is not open any more; what still cannot be processed gets one more unprocessed outcome. Two
operators can replay at the same time: the later one ends the earlier, and goes on with what that has left. So can a second run after one that was
killed.

A replay is judged now, but does not undo what came after the item:
  sales         keep their place: a later sale of the same id stays the current one
  ownership     what sets a quantity is superseded by any later change of user and SKU, what adds to it by a later one that sets it; these are left alone
  referrals     a participant who has been referred meanwhile stays so: already_referred
  transactions  keep their time of acceptance: a later one of the same natural key stays the current one
  references and facts (dead letters only) are put back where no later record of their own id is there

Some cannot be replayed, and are named: items that were refused at the door because they do not fit the schema (their sender must mend them), and
dead letters that today's code cannot read or place either.

The processors and the sink must run: a replay waits at the start until they are done with what is there, and at the end for its outcomes.

Exit codes: 0 all that was selected is processed (or would be), 1 an error (what was published before it stays so; run it again), 2 wrong usage,
3 something is unprocessed still, or would be. With --wait=false nothing is known of what was published, and the exit code is 0.

Examples:
  counterfoil replay --tenant acme --reason not_found --since 26h --dry-run
  counterfoil replay --tenant acme --reason not_found --since 26h
  counterfoil replay --kind sales --reason no_match --since 2026-03-01 --until 2026-04-01
  counterfoil replay --batch 1042
  counterfoil replay --dead-letters --reason unknown_schema --kind customer_events
  counterfoil replay --reason internal_error --json | jq -c '.items[] | select(.fate != "processed")'`,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&opts.reasons, "reason", "", "only items with one of these `codes`, separated by commas: not_found, no_match, internal_error, ...")
			f.StringVar(&opts.kinds, "kind", "", "only of these `kinds`: customer_events, purchase, sales, ...; of dead letters the topics")
			f.StringVar(&opts.Tenant, "tenant", "", "only of this tenant")
			f.StringVar(&opts.since, "since", "", "only what was accepted since then: a `duration` back (90m, 26h), a day (2026-03-01), or an instant with its zone")
			f.StringVar(&opts.until, "until", "", "only what was accepted before then: written like --since")
			f.Int64Var(&opts.Batch, "batch", 0, "only items of the batch with this `number`")
			f.StringVar(&opts.Key, "key", "", "only items of this key: a sale's id, user/SKU of ownership (folded to lower case), the own id of a reference or fact")
			f.StringVar(&opts.refs, "ref", "", "only items with one of these `references` of their callers, separated by commas")
			f.StringVar(&opts.items, "item", "", "only the items with these `identities` of 32 hex digits, separated by commas")
			f.BoolVar(&opts.all, "all", false, "everything that is open, where nothing else restricts the selection")
			f.BoolVar(&opts.DeadLetters, "dead-letters", false, "put dead letters back instead of unprocessed items")
			f.BoolVar(&opts.DryRun, "dry-run", false, "show what would become of the items, and change nothing")
			f.BoolVar(&opts.Wait, "wait", true, "wait for the outcomes and show them")
			f.IntVar(&opts.Limit, "limit", 100_000, "refuse to do anything where more items than this are selected (before --key is looked at)")
			f.DurationVar(&opts.Stuck, "stuck", time.Minute, "how long to wait for a processor or the sink that does not move")
			f.IntVar(&opts.most, "most", 20, "how many items are named; all are counted, and --json names all")
			f.BoolVar(&opts.asJSON, "json", false, "print the report as one JSON object")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return badUsage("it takes no argument %q", args[0])
			}
			if err := opts.check(time.Now()); err != nil {
				return err
			}
			report, err := runReplay(ctx, app, opts.Options)
			if err != nil {
				return err
			}
			if opts.asJSON {
				err = json.NewEncoder(app.stdout).Encode(report)
			} else {
				err = printReplay(app.stdout, report, opts.most)
			}
			if left := len(report.Items) - report.Count(replay.FateProcessed, replay.FatePublished); err == nil && left > 0 {
				what := "not processed"
				if report.DryRun {
					what = "would not be processed"
				}
				err = &exitError{exitOpen, fmt.Errorf("%s: %s of %s items", what, grouped(int64(left)), grouped(int64(len(report.Items))))}
			}
			return err
		},
	}
}

// replayArgs are the flags.
type replayArgs struct {
	replay.Options
	reasons, kinds, refs, items, since, until string
	all, asJSON                               bool
	most                                      int
}

// reasonCodes are what --reason takes.
var reasonCodes = []string{
	schemas.CodeMissing, schemas.CodeInvalid, schemas.CodeOutOfRange, schemas.CodeMultipleIdentifiers, schemas.CodeNotFound, schemas.CodeNotAllowed,
	schemas.CodeCurrencyMismatch, schemas.CodeAlreadyReferred, schemas.CodeSelfReferral, schemas.CodeDuplicateRef, schemas.CodeNoMatch,
	schemas.CodeSuperseded, schemas.CodeInternalError,
}

// deadCodes are what it takes with --dead-letters.
var deadCodes = []string{
	schemas.CodeTenantMissing, schemas.CodeBadHeader, schemas.CodeUndecodable, schemas.CodeUnknownSchema, schemas.CodeKeyMismatch,
	schemas.CodeOutOfRange, schemas.CodeInternalError,
}

// eventKinds are the kinds within item topics.
var eventKinds = []string{
	schemas.EventAchievement, schemas.EventPurchase, schemas.EventReferral, schemas.EventSocialMedia, schemas.EventWeb,
	schemas.EventFinancialAchievement, schemas.EventFinancialStatement,
}

// check reads the flags into the options. A word that can select nothing is wrong usage, so that no slip of the pen looks like success.
func (a *replayArgs) check(now time.Time) (err error) {
	kinds := append(schemas.TopicNames(schemas.RoleItem), eventKinds...)
	codes := reasonCodes
	if a.DeadLetters {
		kinds, codes = schemas.TopicNames(), deadCodes
	} else {
		kinds = append(kinds, schemas.References)
	}
	if a.Reasons, err = wordsOf("--reason", a.reasons, codes); err != nil {
		return err
	}
	if a.Kinds, err = wordsOf("--kind", a.kinds, kinds); err != nil {
		return err
	}
	if a.Refs, err = wordsOf("--ref", a.refs, nil); err != nil {
		return err
	}
	if a.Items, err = wordsOf("--item", a.items, nil); err != nil {
		return err
	}
	if a.Tenant != "" {
		if err := checkTenant(a.Tenant); err != nil {
			return err
		}
	}
	if a.Since, err = parseMoment("--since", a.since, now); err != nil {
		return err
	}
	if a.Until, err = parseMoment("--until", a.until, now); err != nil {
		return err
	}
	restricted := a.reasons+a.kinds+a.refs+a.items+a.since+a.until+a.Tenant+a.Key != "" || a.Batch != 0
	switch {
	case a.DeadLetters && (a.Batch != 0 || a.refs+a.items != ""):
		return badUsage("--batch, --ref and --item do not select dead letters: those are records that could not be read")
	case a.Batch < 0:
		return badUsage("--batch is %d: it is a number as /v1/batches shows it", a.Batch)
	case slices.ContainsFunc(a.Items, func(id string) bool { return len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" }):
		return badUsage("--item is %q: an identity has 32 lower-case hex digits", a.items)
	case !a.Since.IsZero() && !a.Until.IsZero() && !a.Since.Before(a.Until):
		return badUsage("--since is not before --until: nothing lies between them")
	case !restricted && !a.all:
		return badUsage("nothing restricts the selection: choose by --reason, --kind, --tenant, --since, --until, --batch, --key, --ref or --item, or say --all")
	case restricted && a.all:
		return badUsage("--all is everything that is open: leave it out, or the other flags of the selection")
	case a.Limit < 1:
		return badUsage("--limit is %d: choose 1 or more", a.Limit)
	case a.most < 0:
		return badUsage("--most is %d: choose 0 or more", a.most)
	case a.Stuck <= 0:
		return badUsage("--stuck is %s: choose more than 0", a.Stuck)
	}
	return nil
}

// wordsOf splits a list at its commas. Where known is not nil each word must be one of it.
func wordsOf(flag, text string, known []string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	words := strings.Split(text, ",")
	for i, word := range words {
		words[i] = strings.TrimSpace(word)
		if words[i] == "" || known != nil && !slices.Contains(known, words[i]) {
			return nil, badUsage("%s %q: choose among %s", flag, words[i], strings.Join(known, ", "))
		}
	}
	return words, nil
}

// runReplay connects and replays.
func runReplay(ctx context.Context, app *app, opts replay.Options) (*replay.Report, error) {
	in, err := attend(ctx, app)
	if err != nil {
		return nil, err
	}
	defer in.leave()
	return replay.Run(ctx, replay.Deps{
		Kafka: in.kafka, Admin: in.adm, Conn: in.conn, Registry: in.registry, Epochs: in.epochs, Judges: judges(), Progress: in.say, Read: newTopicReader(in.kafka, in.log).read,
		Rehearse: func(ctx context.Context, name string) (*processors.Rehearsal, error) {
			return processors.NewRehearsal(ctx, in.cfg.Process, processors.Deps{
				Kafka: in.kafka, Registry: in.registry, Epochs: in.epochs, Calls: in.conn, Log: in.log, Metrics: prometheus.NewRegistry(),
			}, name)
		},
	}, opts)
}

// fateNouns say what a fate means.
var fateNouns = map[string]string{
	replay.FateProcessed:     "processed",
	replay.FateUnprocessed:   "unprocessed",
	replay.FateDeadLetter:    "dead letter",
	replay.FatePublished:     "published",
	replay.FateSuperseded:    "superseded, left alone",
	replay.FateNotReplayable: "cannot be replayed",
}

func printReplay(out io.Writer, r *replay.Report, most int) error {
	if len(r.Items) == 0 {
		_, err := fmt.Fprintln(out, "Nothing that is open is selected.")
		return err
	}
	type row struct{ kind, was, fate, now string }
	counts := map[row]int64{}
	for _, it := range r.Items {
		counts[row{it.Kind, codesOf(it.Was), it.Fate, codesOf(it.Now)}]++
	}
	became := "IS NOW"
	if r.DryRun {
		became = "WOULD BE"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "ITEMS\tKIND\tWAS\t%s\tFOR\n", became)
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(a, b row) int {
		return cmp.Or(-cmp.Compare(counts[a], counts[b]), cmp.Compare(a.kind, b.kind), cmp.Compare(a.was, b.was), cmp.Compare(a.fate+a.now, b.fate+b.now))
	}) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", grouped(counts[k]), k.kind, k.was, fateNouns[k.fate], k.now)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	named := 0
	for _, it := range r.Items {
		if it.Fate == replay.FateProcessed && !r.DryRun || it.Fate == replay.FatePublished {
			continue
		}
		if named++; named > most {
			continue
		}
		printItem(out, it)
	}
	if named > most {
		fmt.Fprintf(out, "\nAnd %s more (--most names more of them, --json all).\n", grouped(int64(named-most)))
	}
	const summary = "\n%s of %s items "
	what := "are processed now.\n"
	n := r.Count(replay.FateProcessed)
	switch {
	case r.DryRun:
		what = "would be processed. Nothing was changed.\n"
	case r.Count(replay.FatePublished) > 0:
		what = "were published. `counterfoil lag` shows when they are judged.\n"
		n = r.Count(replay.FatePublished)
	}
	_, err := fmt.Fprintf(out, summary+what, grouped(int64(n)), grouped(int64(len(r.Items))))
	return err
}

// printItem names an item that was not processed, or any in a dry run.
func printItem(out io.Writer, it *replay.Item) {
	fmt.Fprintf(out, "\n%s of %s", it.Kind, cmp.Or(it.Tenant, "nobody"))
	ref := ""
	if it.Ref != nil {
		ref = *it.Ref
	}
	for _, more := range []struct{ name, value string }{{"item", it.ID}, {"ref", ref}, {"key", it.Key}, {"at", it.Source}} {
		if more.value != "" {
			fmt.Fprintf(out, ", %s %s", more.name, more.value)
		}
	}
	fmt.Fprintln(out)
	for _, reason := range it.Was {
		fmt.Fprintf(out, "  was: %s\n", reasonText(&reason))
	}
	if len(it.Now) == 0 {
		fmt.Fprintf(out, "  now: %s\n", fateNouns[it.Fate])
	}
	for _, reason := range it.Now {
		fmt.Fprintf(out, "  now: %s: %s\n", fateNouns[it.Fate], reasonText(&reason))
	}
}

func reasonText(r *schemas.Reason) string {
	text := r.Code
	if r.Field != "" {
		text += " " + r.Field
	}
	if r.Value != nil {
		text += fmt.Sprintf(" (%q)", *r.Value)
	}
	if r.Message != "" {
		text += ": " + r.Message
	}
	return text
}

// codesOf lists the codes of reasons, each once.
func codesOf(reasons []schemas.Reason) string {
	var codes []string
	for _, r := range reasons {
		if !slices.Contains(codes, r.Code) {
			codes = append(codes, r.Code)
		}
	}
	slices.Sort(codes)
	return strings.Join(codes, ", ")
}
