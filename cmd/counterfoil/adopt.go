package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/adopt"
	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/transactions"
	"github.com/counterfoil/counterfoil/schemas"
)

func adoptCommand() *command {
	var opts adopt.Options
	var yes, asJSON, ends bool
	return &command{
		name:    "adopt",
		args:    "[--offsets | --transactions] [--yes] [--json]",
		summary: "go on with topics that were created anew, an emptied ClickHouse, lost offsets, or transactions that nobody ends",
		help: `Every role, and migrate, refuses to run where Kafka and ClickHouse do not belong together: it would take records for others, judge items twice,
or leave some out. This command says what is amiss and what going on from there means, and changes nothing. With --yes it does it.

  a topic was deleted or created anew   It becomes a new epoch, whose positions, versions and numbers come after those of the last. What was in it and
                                        had not been read is lost; the plan says for each topic what that is.
  ClickHouse lost its data              Its tables are filled again from the start of each log. What is no longer in Kafka is lost.
  committed offsets are gone            With --offsets each group goes on behind the last record that it has handled, which the outcomes in ClickHouse and in
                                        Kafka show. The sink begins at the start of the logs: its tables know what they have, and take nothing twice.
  transactions that nobody ends         A broker that was killed may forget to write down in some partitions that a transaction was committed: their readers
                                        then wait for good. With --transactions each is ended as Kafka had decided, where its topic __transaction_state
                                        still shows that. Do this before anything else. Kafka must be 3.0 or later, and allow us to read our topics,
                                        __consumer_offsets and __transaction_state, to describe transactional ids, and to alter the cluster (an older
                                        Kafka: cluster actions).

Stop every role before, ingest as well, and let no replay run. If a backup is to be brought back, do that first: what was taken over is not given back.
Afterwards audit proves what was accepted from then on (--since), and the rest as far as both sides still have it.

After ClickHouse was restored from a backup its tables lack what came later, and nobody notices: delete the offsets of group counterfoil-sink,
and --offsets lets it read again.

Where counterfoil up refuses, start it with --adopt and the same flags.

Examples:
  counterfoil adopt                      what is amiss, and what taking it over means
  counterfoil adopt --yes                take re-created topics over, or fill ClickHouse again
  counterfoil adopt --offsets --yes      set lost offsets as well
  counterfoil adopt --transactions       which transactions nobody ends, and what Kafka decided on them
  counterfoil adopt --offsets --json | jq '.offsets[].partitions[] | select(.skipped > 0)'`,
		flags: func(f *flag.FlagSet) {
			f.BoolVar(&opts.Offsets, "offsets", false, "take over groups whose committed offsets are gone, too")
			f.BoolVar(&ends, "transactions", false, "end the transactions that Kafka has left behind, and nothing else")
			f.BoolVar(&yes, "yes", false, "do it, not only say it")
			f.BoolVar(&asJSON, "json", false, "print one JSON object")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			switch {
			case len(args) > 0:
				return badUsage("adopt takes flags only, not %q", args[0])
			case ends && opts.Offsets:
				return badUsage("--transactions comes first, and alone: what groups have handled can be read only when nothing is open any more")
			}
			cfg, err := loadConfig(app.environ)
			if err != nil {
				return err
			}
			if ends {
				return endTransactions(ctx, cfg, app, yes, asJSON)
			}
			in, err := reach(ctx, cfg, warnings(app))
			if err != nil {
				return err
			}
			defer in.close()
			steps := app.stdout
			if asJSON {
				steps = io.Discard
			}
			plan, problem := in.adopt(ctx, opts, yes, steps, app.stderr)
			if plan == nil {
				return problem
			}
			switch {
			case asJSON:
				err = json.NewEncoder(app.stdout).Encode(plan)
			case !yes && len(plan.Blocked) == 0 && len(plan.Topics)+len(plan.Offsets) > 0:
				_, err = fmt.Fprintln(app.stdout, "Nothing was changed: --yes does it.")
			}
			return errors.Join(problem, err)
		},
	}
}

// adoptDeps are what adopt works with here.
func (in *installation) adoptDeps() (adopt.Deps, error) {
	kafka, err := in.cfg.Kafka.Opts()
	return adopt.Deps{
		Admin: in.adm, Conn: in.conn, Registry: in.registry, Groups: groups(),
		Commits: func(ctx context.Context, group string) (kadm.OffsetResponses, error) {
			return fetchOffsets(ctx, in.adm, group)
		},
		Read:     newTopicReader(kafka, in.log).read,
		Progress: func(string) {},
	}, err
}

// adopt looks, says on out what it finds, and takes it over where yes says so. Progress goes to a terminal. The plan is nil where nothing is known.
func (in *installation) adopt(ctx context.Context, opts adopt.Options, yes bool, out, progress io.Writer) (*adopt.Plan, error) {
	deps, err := in.adoptDeps()
	if err != nil {
		return nil, err
	}
	known, err := in.conn.TopicEpochs(ctx)
	if err == nil && len(known) > 0 {
		err = in.conn.Migrated(ctx) // its tables are asked
	}
	if err != nil {
		return nil, err
	}
	find := func() (*adopt.Plan, error) {
		say, end := showDoing(progress)
		defer end()
		deps.Progress = say
		plan, err := adopt.Find(ctx, deps, opts)
		if err != nil || !yes || len(plan.Members) == 0 {
			return plan, err
		}
		// Roles that were stopped a moment ago may still be members.
		if _, err := adopt.Await(ctx, deps, plan.Members, forgotten(in.cfg)); err != nil {
			return nil, err
		}
		return adopt.Find(ctx, deps, opts)
	}
	plan, err := find()
	if err == nil {
		err = printPlan(out, plan)
	}
	switch {
	case err != nil || !yes || plan.Nothing():
		return plan, err
	case len(plan.Blocked) > 0:
		return plan, errors.New("nothing was changed")
	case len(plan.Topics)+len(plan.Offsets) == 0:
		return plan, errors.New("nothing was changed: lost offsets are taken over with --offsets only")
	}
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	if err := in.migrateClickHouse(ctx, say, false); err != nil {
		return plan, err
	}
	if err := in.createTopics(ctx, say, false); err != nil {
		return plan, err
	}
	if _, err := awaitTopics(ctx, in.adm); err != nil {
		return plan, err
	}
	if slices.ContainsFunc(plan.Topics, func(t adopt.Topic) bool { return t.State == adopt.StateMissing }) {
		if plan, err = find(); err != nil { // with those that are there now
			return nil, err
		}
	}
	if err := plan.Do(ctx, deps, say); err != nil {
		return plan, err
	}
	return plan, in.migrate(ctx, out, false)
}

// printPlan says in words what was found and what it means.
func printPlan(out io.Writer, p *adopt.Plan) error {
	if p.Nothing() {
		_, err := fmt.Fprintln(out, "Kafka and ClickHouse belong together: there is nothing to take over.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(p.Topics) > 0 {
		fmt.Fprint(w, "TOPIC\tIS\tEPOCH\n")
		for i := range p.Topics {
			t := &p.Topics[i]
			epoch := fmt.Sprintf("%d -> %d", t.From, t.Epoch)
			if t.State == adopt.StateUnknown {
				epoch = fmt.Sprint(t.Epoch)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", t.Name, t.State, epoch)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprint(out, "\nWhat that means:\n")
		for i := range p.Topics {
			for _, m := range p.Topics[i].Means {
				fmt.Fprintf(out, "  %s: %s\n", p.Topics[i].Name, m)
			}
		}
		if p.Pending != nil {
			fmt.Fprintf(out, "  ClickHouse has %s items of %s batches without an outcome: what is lost of these, and what never came to ClickHouse, must be sent again.\n",
				grouped(int64(p.Pending.Items)), grouped(int64(p.Pending.Batches)))
		}
		fmt.Fprintln(out)
	}
	if len(p.Offsets) > 0 {
		printOffsets(w, p.Offsets)
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out, "RECORDS TO READ and LOST UNREAD count offsets, markers included: there are at most so many records.")
		if slices.ContainsFunc(p.Offsets, unfounded) {
			fmt.Fprintln(out, "Of a partition where nothing was found that a processor has handled, it is taken to have handled nothing.")
		}
		fmt.Fprintln(out)
	}
	for _, l := range p.Lost {
		fmt.Fprintf(out, "Group %s lost its offsets of topic %s, partitions %v: --offsets says where it must go on.\n", l.Group, l.Topic, l.Partitions)
	}
	for _, b := range p.Blocked {
		fmt.Fprintf(out, "It cannot be done now: %s.\n", b)
	}
	return nil
}

// printOffsets makes the table of where groups go on. What begins at the start of the log in all partitions is one line.
func printOffsets(w io.Writer, offsets []adopt.Offset) {
	fmt.Fprint(w, "GROUP\tTOPIC\tPARTITION\tLAST HANDLED\tGOES ON AT\tRECORDS TO READ\tLOST UNREAD\tBECAUSE\n")
	for _, o := range offsets {
		if !o.FromStart {
			for _, at := range o.Partitions {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\t%s\t%s\n", o.Group, o.Topic, at.Partition, orNone(at.Found), at.To, grouped(at.End-at.To), grouped(at.Skipped), o.Why)
			}
			continue
		}
		var left, skipped int64
		for _, at := range o.Partitions {
			left, skipped = left+at.End-at.To, skipped+at.Skipped
		}
		fmt.Fprintf(w, "%s\t%s\tall\t-\tstart\t%s\t%s\t%s\n", o.Group, o.Topic, grouped(left), grouped(skipped), o.Why)
	}
}

// unfounded reports whether a processor reads records of which nothing shows that they were not handled.
func unfounded(o adopt.Offset) bool {
	return !o.FromStart && slices.ContainsFunc(o.Partitions, func(at adopt.Partition) bool { return at.Found == nil && at.Committed == nil && at.End > at.To })
}

func orNone(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// endings are the transactions that Kafka has left behind.
type endings struct {
	Transactions []transactions.Open `json:"transactions"`
	Members      []string            `json:"members"` // groups that have members: nothing is ended beside them
	Done         bool                `json:"done"`    // none is left
}

// endTransactions says which transactions Kafka has left behind, and ends them where yes says so, with no role at work: a producer that goes on
// would begin its next transaction where it has one open. It needs Kafka only.
func endTransactions(ctx context.Context, cfg *Config, app *app, yes, asJSON bool) error {
	opts, err := cfg.Kafka.Opts()
	if err != nil {
		return err
	}
	client, err := reachKafka(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer client.Close()
	say, end := showDoing(app.stderr)
	defer end()
	adm, read := kadm.NewClient(client), newTopicReader(opts, warnings(app)).read
	find := func() (left []transactions.Open, err error) {
		say("asking who holds topics back")
		for _, find := range []func() ([]transactions.Open, error){
			func() ([]transactions.Open, error) {
				return transactions.Find(ctx, adm, schemas.TopicNames(), time.Now())
			},
			func() ([]transactions.Open, error) { return transactions.FindCommits(ctx, adm, time.Now()) },
		} {
			open, err := find()
			if err != nil {
				return nil, err
			}
			left = append(left, open...)
		}
		say("reading what Kafka decided")
		left, err = transactions.Decide(ctx, adm, read, left)
		return slices.DeleteFunc(left, func(t transactions.Open) bool { return t.ID != "" && !t.LeftBehind }), err
	}
	found := &endings{Members: []string{}}
	if found.Transactions, err = find(); err != nil {
		return err
	}
	if yes && len(found.Transactions) > 0 {
		// Roles that were stopped a moment ago may still be members, and their last transactions open.
		deps := adopt.Deps{Admin: adm, Progress: say}
		if found.Members, err = adopt.Await(ctx, deps, slices.Sorted(maps.Keys(groups())), forgotten(cfg)); err != nil {
			return err
		}
		if found.Transactions, err = find(); err != nil {
			return err
		}
	}
	end()
	steps := app.stdout
	if asJSON {
		steps = io.Discard
	}
	if err := printEndings(steps, found); err != nil {
		return err
	}
	var problem error
	switch {
	case len(found.Transactions) == 0:
		found.Done = true
	case yes && len(found.Members) > 0:
		problem = fmt.Errorf("nothing was changed: groups have members (%s): stop every role, ingest and replay as well, and try again", strings.Join(found.Members, ", "))
	case yes:
		problem = transactions.End(ctx, client, found.Transactions)
		if problem == nil && slices.ContainsFunc(found.Transactions, undecided) {
			problem = errors.New("those of which it is not known what Kafka decided stay open")
		}
		if found.Done = problem == nil; found.Done {
			fmt.Fprintln(steps, "They are ended. counterfoil adopt says whether anything else is amiss.")
		}
	default:
		fmt.Fprintln(steps, "Nothing was changed: --yes writes the markers that are missing.")
	}
	if asJSON {
		err = json.NewEncoder(app.stdout).Encode(found)
	}
	return errors.Join(problem, err)
}

// undecided: it is not known what Kafka decided.
func undecided(t transactions.Open) bool { return t.Decided == "" }

// forgotten is how long after its end a member is one still, at most.
func forgotten(cfg *Config) time.Duration {
	return max(cfg.Process.SessionTimeout, cfg.Sink.Session) + 2*time.Second
}

// printEndings says in words what was found and what it means.
func printEndings(out io.Writer, found *endings) error {
	if len(found.Transactions) == 0 {
		_, err := fmt.Fprintln(out, "Kafka has left no transaction behind.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TRANSACTION\tPRODUCER\tEPOCH\tSECONDS\tKAFKA DECIDED\tOPEN IN\n")
	for _, t := range found.Transactions {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%s\t%s\n", cmp.Or(t.ID, "-"), t.ProducerID, t.ProducerEpoch, t.Seconds, cmp.Or(t.Decided, "?"), firstFew(t.Partitions))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nNo coordinator is at work on these: what lies behind their first records is not read until they end. What Kafka decided on one may hold in other\n"+
		"partitions already.")
	if slices.ContainsFunc(found.Transactions, undecided) {
		fmt.Fprintln(out, "Of those with a ? the decision is not, or no longer, in "+transactions.StateTopic+"; one without a name may belong to an application whose transactional id\n"+
			"may not be described by us. Once it is certain that its producer is gone, and that no other partition has a COMMIT marker of it after these records,\n"+
			"Kafka's kafka-transactions.sh abort ends one: what is aborted is not read by anybody.")
	}
	return nil
}
