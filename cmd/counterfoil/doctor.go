package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/transactions"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

func doctorCommand() *command {
	var asJSON bool
	return &command{
		name:    "doctor",
		args:    "[--json]",
		summary: "check Kafka, the registry, ClickHouse and the keys, and say which promise holds here",
		help: `Looks at everything that the promises rest on, with the settings that it finds in its own environment (give it those of the roles), and
changes nothing. Each check is one line: ok, warning or failure; under a warning or failure stands what is wrong and what to do about it.
The last lines say which promises hold in this installation: a single broker, for example, keeps them against crashes, not against power loss.

The exit code is 0 when nothing failed, warnings or not, and 1 otherwise.

Examples:
  KAFKA_BROKERS=kafka-1:9092 CLICKHOUSE_ADDR=ch-1:9000 SCHEMA_REGISTRY_URL=http://registry:8081 TOKEN_SECRETS=... counterfoil doctor
  counterfoil doctor --json | jq '.checks[] | select(.status != "ok")'`,
		flags: func(f *flag.FlagSet) {
			f.BoolVar(&asJSON, "json", false, "print one JSON object")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return badUsage("doctor takes flags only, not %q", args[0])
			}
			cfg, err := loadConfig(app.environ)
			if err != nil {
				return err
			}
			d := &doctor{cfg: cfg, now: time.Now}
			r := d.examine(ctx)
			if asJSON {
				err = json.NewEncoder(app.stdout).Encode(r)
			} else {
				err = r.print(app.stdout)
			}
			if err == nil && r.Failures > 0 {
				err = fmt.Errorf("%d of %d checks failed", r.Failures, len(r.Checks))
			}
			return err
		},
	}
}

// promise is what an installation may keep or not; the README has them in full.
type promise string

const (
	promiseKept    promise = "kept"    // what was accepted stays until it is judged, and is judged in the order of its key
	promiseOnce    promise = "once"    // each item gets exactly one outcome
	promiseTables  promise = "tables"  // ClickHouse has each outcome exactly once
	promiseRunning promise = "running" // no part is refused, blocked or stuck
	promiseApart   promise = "apart"   // no tenant sees another's data
	promisePower   promise = "power"   // loss of a machine or of power
)

var promises = []struct {
	promise promise
	text    string
}{
	{promiseKept, "What was accepted is kept until it is judged, in the order of its key"},
	{promiseOnce, "Every item gets exactly one outcome"},
	{promiseTables, "ClickHouse holds each outcome exactly once"},
	{promiseRunning, "Nothing is refused, held back or stuck"},
	{promiseApart, "Only who holds a key acts for its tenant"},
	{promisePower, "They hold against the loss of power and of one machine, not only against crashes"},
}

// Statuses of checks and problems, in rising order.
const (
	statusOK        = "ok"
	statusUnchecked = "unchecked" // what it needs does not answer
	statusWarning   = "warning"
	statusFailure   = "failure"
)

// diagnosis is what doctor prints.
type diagnosis struct {
	Checks   []finding `json:"checks"`
	Promises []verdict `json:"promises"`
	Warnings int       `json:"warnings"` // checks
	Failures int       `json:"failures"` // checks
}

// finding is the result of a check.
type finding struct {
	Check    string    `json:"check"`
	Status   string    `json:"status"`
	Says     string    `json:"says"` // what was found, where all is well or nothing could be looked at
	Problems []problem `json:"problems"`
}

// problem is one thing that is wrong.
type problem struct {
	Status string    `json:"status"` // warning or failure
	What   string    `json:"what"`
	Do     string    `json:"do"`
	Breaks []promise `json:"breaks"`
}

// verdict says whether a promise holds here: yes, no or unknown.
type verdict struct {
	Promise promise  `json:"promise"`
	Text    string   `json:"text"`
	Holds   string   `json:"holds"`
	Because []string `json:"because"` // the checks that broke it, or that could not be made
}

// check is one line of the report. run returns what to say where all is well; its error says that it could not look.
type check struct {
	name   string
	needs  []*part
	guards []promise // broken by a failure that names none of its own
	run    func(ctx context.Context) (says string, problems []problem, err error)
}

// part is a server that checks need.
type part struct {
	name string
	err  error // why it cannot be reached
}

// checkTimeout bounds each check: a server that is silent is a finding.
const checkTimeout = 20 * time.Second

// doctor examines an installation.
type doctor struct {
	cfg *Config
	now func() time.Time // our clock

	kafka, registry, clickhouse part

	opts    []kgo.Opt
	client  *kgo.Client
	adm     *kadm.Client
	schemas *schemas.Registry
	conn    *clickhouse.Conn

	// What several checks look at, read once.
	meta     kadm.Metadata
	configs  map[string]map[string]string // of topics: settings by topic and name
	standing *standing
	nodes    []clickhouse.NodeState
}

// examine makes every check and closes what it has opened.
func (d *doctor) examine(ctx context.Context) *diagnosis {
	d.kafka, d.registry, d.clickhouse = part{name: "Kafka"}, part{name: "the schema registry"}, part{name: "ClickHouse"}
	d.reach(ctx)
	defer d.close()
	kafka, ch, reg := &d.kafka, &d.clickhouse, &d.registry
	type needs = []*part
	type guards = []promise
	checks := []check{
		{"kafka", nil, guards{promiseRunning}, d.checkKafka},
		{"kafka.settings", needs{kafka}, guards{promiseRunning}, d.checkBrokers},
		{"topics", needs{kafka}, guards{promiseKept, promiseRunning}, d.checkTopics},
		{"topics.ids", needs{kafka, ch}, guards{promiseTables, promiseOnce}, d.checkIDs},
		{"topics.cleanup", needs{kafka}, guards{promiseKept}, d.setting("cleanup.policy")},
		{"topics.retention", needs{kafka}, guards{promiseKept}, d.checkRetention},
		{"topics.timestamps", needs{kafka}, guards{promiseTables, promiseOnce}, d.setting(timestampType)},
		{"topics.size", needs{kafka}, guards{promiseRunning}, d.checkSizes},
		{"topics.replication", needs{kafka}, guards{promiseKept, promisePower}, d.checkReplication},
		{"groups.offsets", needs{kafka, ch}, guards{promiseKept, promiseOnce}, d.checkGroups},
		{"groups.lag", needs{kafka}, guards{promiseRunning}, d.checkLag},
		{"transactions", needs{kafka}, guards{promiseRunning}, d.checkTransactions},
		{"registry", nil, guards{promiseRunning}, d.checkRegistry},
		{"clickhouse", nil, guards{promiseTables, promiseRunning}, d.checkClickHouse},
		{"clickhouse.migrations", needs{ch}, guards{promiseTables, promiseRunning}, d.checkMigrations},
		{"clickhouse.constraints", needs{ch}, guards{promiseTables}, d.checkConstraints},
		{"clickhouse.partitioning", needs{ch}, guards{promiseTables}, d.checkPartitioning},
		{"clickhouse.durability", needs{ch}, guards{promisePower}, d.checkDurability},
		{"clickhouse.async_insert", needs{ch}, guards{promiseTables}, d.checkAsyncInsert},
		{"clickhouse.clock", needs{ch}, guards{promiseTables}, d.checkClock},
		{"keys", needs{kafka, reg}, nil, d.checkKeys},
		{"token_secrets", nil, guards{promiseApart}, d.checkSecrets},
	}
	r := &diagnosis{Checks: []finding{}}
	broken, unknown := map[promise][]string{}, map[promise][]string{}
	for _, c := range checks {
		f := d.perform(ctx, c)
		r.Checks = append(r.Checks, f)
		switch f.Status {
		case statusWarning:
			r.Warnings++
		case statusFailure:
			r.Failures++
		case statusUnchecked:
			for _, p := range c.guards {
				unknown[p] = append(unknown[p], c.name)
			}
		}
		for _, p := range promises {
			if slices.ContainsFunc(f.Problems, func(x problem) bool { return slices.Contains(x.Breaks, p.promise) }) {
				broken[p.promise] = append(broken[p.promise], c.name)
			}
		}
	}
	for _, p := range promises {
		v := verdict{Promise: p.promise, Text: p.text, Holds: "yes", Because: []string{}}
		switch {
		case len(broken[p.promise]) > 0:
			v.Holds, v.Because = "no", broken[p.promise]
		case len(unknown[p.promise]) > 0:
			v.Holds, v.Because = "unknown", unknown[p.promise]
		}
		r.Promises = append(r.Promises, v)
	}
	return r
}

// reach connects to the servers, and notes for each that cannot be reached why.
func (d *doctor) reach(ctx context.Context) {
	// Each has its own time: one that is silent must not make the others seem so.
	within := func(p *part, f func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		p.err = f(ctx)
	}
	within(&d.kafka, func(ctx context.Context) (err error) {
		if d.opts, err = d.cfg.Kafka.Opts(); err != nil {
			return err
		}
		if d.client, err = reachKafka(ctx, d.cfg.Kafka); err != nil {
			return err
		}
		d.adm = kadm.NewClient(d.client)
		d.meta, err = d.adm.Metadata(ctx)
		return err
	})
	within(&d.registry, func(ctx context.Context) (err error) {
		if d.schemas, err = schemas.NewRegistry(d.cfg.Registry, newLogger(CommonConfig{}, io.Discard)); err != nil {
			return err
		}
		_, err = d.schemas.Client().Subjects(ctx)
		return err
	})
	within(&d.clickhouse, func(ctx context.Context) (err error) {
		if d.conn, err = clickhouse.Open(ctx, d.cfg.ClickHouse); err != nil {
			return err
		}
		d.nodes, err = d.conn.Inspect(ctx, d.now)
		return err
	})
}

func (d *doctor) close() {
	if d.client != nil {
		d.client.Close()
	}
	if d.conn != nil {
		_ = d.conn.Close() // nothing was written
	}
}

// perform makes one check.
func (d *doctor) perform(ctx context.Context, c check) finding {
	f := finding{Check: c.name, Status: statusOK, Problems: []problem{}}
	for _, p := range c.needs {
		if p.err != nil {
			f.Status, f.Says = statusUnchecked, p.name+" does not answer"
			return f
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	says, problems, err := c.run(ctx)
	if err != nil {
		problems = append(problems, problem{Status: statusFailure, What: err.Error()})
	}
	f.Says = says
	for _, p := range problems {
		if p.Status == "" {
			p.Status = statusFailure
		}
		if p.Breaks == nil && p.Status == statusFailure {
			p.Breaks = c.guards
		}
		if p.Breaks == nil {
			p.Breaks = []promise{}
		}
		if f.Status != statusFailure {
			f.Status = p.Status
		}
		f.Problems = append(f.Problems, p)
	}
	return f
}

// shownProblems is how many problems of a check people see; --json has all.
const shownProblems = 8

func (r *diagnosis) print(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Checks {
		says := f.Says
		if len(f.Problems) > 0 {
			says = ""
		}
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%-9s  %-23s  %s", f.Status, f.Check, says), " "))
		for i, p := range f.Problems {
			if i == shownProblems {
				fmt.Fprintf(&b, "%11s... and %d more: --json shows all\n", "", len(f.Problems)-i)
				break
			}
			fmt.Fprintf(&b, "%11s%s\n", "", indented(p.What))
			last := i == len(f.Problems)-1 || i == shownProblems-1 || f.Problems[i+1].Do != p.Do
			if p.Do != "" && last {
				fmt.Fprintf(&b, "%11s  to do: %s\n", "", indented(p.Do))
			}
		}
	}
	fmt.Fprint(&b, "\nWhat holds here:\n")
	for _, v := range r.Promises {
		fmt.Fprintf(&b, "  %-7s  %s", v.Holds, v.Text)
		switch v.Holds {
		case "no":
			fmt.Fprintf(&b, " (see %s)", strings.Join(v.Because, ", "))
		case "unknown":
			fmt.Fprintf(&b, " (not checked: %s)", strings.Join(v.Because, ", "))
		}
		fmt.Fprintln(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// indented keeps the lines of a text together under the first.
func indented(text string) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 13))
}

// Kafka

// minTxnOffsetCommit is the version of TxnOffsetCommit in which a commit of consumed offsets is fenced by the group's generation (KIP-447,
// Kafka 2.5): without it two members could both judge a record.
const minTxnOffsetCommit = 3

func (d *doctor) checkKafka(ctx context.Context) (string, []problem, error) {
	if d.kafka.err != nil {
		return "", nil, d.kafka.err
	}
	versions, err := d.adm.ApiVersions(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	var problems []problem
	var known []string
	features := map[string]int16{}
	for _, v := range versions.Sorted() {
		if v.Err != nil {
			problems = append(problems, problem{What: fmt.Sprintf("broker %d does not answer: %v", v.NodeID, v.Err), Do: "start it, or see what keeps it from answering"})
			continue
		}
		if guess := v.VersionGuess(); !slices.Contains(known, guess) {
			known = append(known, guess)
		}
		if highest, _ := v.KeyMaxVersion(int16(kmsg.TxnOffsetCommit)); highest < minTxnOffsetCommit {
			problems = append(problems, problem{What: fmt.Sprintf("broker %d is older than Kafka 2.5: it does not fence the offsets of a transaction", v.NodeID),
				Do: "upgrade Kafka", Breaks: []promise{promiseOnce}})
		}
		for _, f := range v.Raw().FinalizedFeatures {
			features[f.Name] = f.MaxVersionLevel
		}
	}
	if len(known) > 1 {
		problems = append(problems, problem{Status: statusWarning, What: "the brokers seem to be of several versions: " + strings.Join(known, ", "), Do: "end the upgrade that is under way"})
	}
	if level := features["transaction.version"]; level < 2 {
		problems = append(problems, problem{Status: statusWarning,
			What: fmt.Sprintf("transaction.version is %d: a late write of a producer that is gone can leave a transaction that nobody ends (KIP-890)", level),
			Do:   "on Kafka 4.0 or later: kafka-features.sh upgrade --feature transaction.version=2; before, watch counterfoil lag for open transactions"})
	}
	// Brokers do not say their version; it is guessed from the requests that they know.
	says := fmt.Sprintf("%s at %s, by its protocol %s", plural(len(d.meta.Brokers), "broker"), strings.Join(d.cfg.Kafka.Brokers, ","), strings.Join(known, ", "))
	for _, name := range slices.Sorted(maps.Keys(features)) {
		if name == "metadata.version" || name == "transaction.version" {
			says += fmt.Sprintf(", %s %d", name, features[name])
		}
	}
	return says, problems, nil
}

// offsetsRetention is how long a role may be stopped, at least, before Kafka forgets how far it was: Kafka's own default.
const offsetsRetention = 7 * 24 * time.Hour

// checkBrokers compares the brokers' limits with our timeouts.
func (d *doctor) checkBrokers(ctx context.Context) (string, []problem, error) {
	var ids []int32
	for _, b := range d.meta.Brokers {
		ids = append(ids, b.NodeID)
	}
	described, err := d.adm.DescribeBrokerConfigs(ctx, ids...)
	if err != nil {
		return "", nil, fmt.Errorf("read the brokers' settings: %w", err)
	}
	session := max(d.cfg.Process.SessionTimeout, d.cfg.Sink.Session)
	var problems []problem
	for _, broker := range described {
		values := settingsOf(broker)
		limit := func(name string, unit time.Duration) (time.Duration, bool) {
			n, err := strconv.ParseInt(values[name], 10, 64)
			return time.Duration(n) * unit, err == nil
		}
		if most, ok := limit("transaction.max.timeout.ms", time.Millisecond); ok && most < d.cfg.Process.TransactionTimeout {
			problems = append(problems, problem{What: fmt.Sprintf("broker %s: transaction.max.timeout.ms is %s, our TRANSACTION_TIMEOUT %s: it refuses our producers", broker.Name, most, d.cfg.Process.TransactionTimeout),
				Do: "raise the one or lower the other"})
		}
		if most, ok := limit("group.max.session.timeout.ms", time.Millisecond); ok && most < session {
			problems = append(problems, problem{What: fmt.Sprintf("broker %s: group.max.session.timeout.ms is %s, ours is %s: it refuses our group members", broker.Name, most, session),
				Do: "raise the one, or lower SESSION_TIMEOUT and SINK_SESSION_TIMEOUT"})
		}
		if least, ok := limit("group.min.session.timeout.ms", time.Millisecond); ok && least > min(d.cfg.Process.SessionTimeout, d.cfg.Sink.Session) {
			problems = append(problems, problem{What: fmt.Sprintf("broker %s: group.min.session.timeout.ms is %s, more than ours: it refuses our group members", broker.Name, least),
				Do: "lower the one, or raise SESSION_TIMEOUT and SINK_SESSION_TIMEOUT"})
		}
		if kept, ok := limit("offsets.retention.minutes", time.Minute); ok && kept < offsetsRetention {
			problems = append(problems, problem{Status: statusWarning, What: fmt.Sprintf("broker %s: offsets.retention.minutes is %s: a role that is stopped for longer does not start again, because Kafka forgot how far it was", broker.Name, kept),
				Do: "set offsets.retention.minutes to 10080 (seven days) or more"})
		}
	}
	return "the brokers' limits fit our timeouts", problems, nil
}

// checkTopics looks for the topics and counts their partitions.
func (d *doctor) checkTopics(context.Context) (string, []problem, error) {
	open := len(d.meta.Topics[schemas.KindOwnership].Partitions) // as migrate counts
	var problems []problem
	for _, t := range schemas.Topics() {
		have, ok := d.meta.Topics[t.Name]
		want := t.Partitions
		if want == 0 {
			want = open
		}
		switch {
		case !ok || errors.Is(have.Err, kerr.UnknownTopicOrPartition):
			problems = append(problems, problem{What: fmt.Sprintf("topic %s does not exist", t.Name),
				Do: "new here, or new with this version: run counterfoil migrate; if it was deleted, bring it back from a backup, or let counterfoil adopt say what going on without it means"})
		case have.Err != nil:
			problems = append(problems, problem{What: fmt.Sprintf("topic %s: %v", t.Name, have.Err), Do: "see the brokers' logs"})
		case len(have.Partitions) != want:
			problems = append(problems, problem{What: fmt.Sprintf("topic %s has %s, it must have %d: a key's records, its state and its results would lie apart", t.Name, plural(len(have.Partitions), "partition"), want),
				Do: "partitions are never added or taken away; to have another number, begin anew with TOPIC_PARTITIONS"})
		}
	}
	return fmt.Sprintf("%d topics; those of items have %s", len(schemas.Topics()), plural(open, "partition")), problems, nil
}

// checkIDs asks whether the topics are those that the positions in ClickHouse mean.
func (d *doctor) checkIDs(ctx context.Context) (string, []problem, error) {
	known, err := d.conn.TopicEpochs(ctx)
	if err != nil {
		return "", nil, err
	}
	ids := map[string]string{}
	var problems []problem
	for _, t := range schemas.Topics() {
		have, ok := d.meta.Topics[t.Name]
		if !ok || have.Err != nil {
			delete(known, t.Name) // it is missing, which is another check's matter
			continue
		}
		ids[t.Name] = have.ID.String()
		if _, ok := known[t.Name]; !ok {
			problems = append(problems, problem{What: fmt.Sprintf("ClickHouse does not know topic %s yet: no role starts", t.Name), Do: "run counterfoil migrate", Breaks: []promise{promiseRunning}})
		}
	}
	if err := sameTopics(known, ids); err != nil {
		problems = append(problems, problem{What: err.Error(), Do: "stop the roles until it is clear which of the two is right; counterfoil adopt says what going on from here means"})
	}
	return "Kafka's topics are those that ClickHouse knows", problems, nil
}

// topicConfigs are the settings of our topics that are there, by topic and name.
func (d *doctor) topicConfigs(ctx context.Context) (map[string]map[string]string, error) {
	if d.configs != nil {
		return d.configs, nil
	}
	described, err := d.adm.DescribeTopicConfigs(ctx, schemas.TopicNames()...)
	if err != nil {
		return nil, fmt.Errorf("read the topics' settings: %w", err)
	}
	configs := map[string]map[string]string{}
	for _, t := range described {
		switch {
		case t.Err == nil:
			configs[t.Name] = settingsOf(t)
		case !errors.Is(t.Err, kerr.UnknownTopicOrPartition): // a missing topic is another check's matter
			return nil, fmt.Errorf("read the settings of topic %s: %w", t.Name, t.Err)
		}
	}
	d.configs = configs
	return configs, nil
}

func settingsOf(r kadm.ResourceConfig) map[string]string {
	values := map[string]string{}
	for _, c := range r.Configs {
		values[c.Key] = c.MaybeValue()
	}
	return values
}

const timestampType = "message.timestamp.type"

// topicSettings are the settings that must be exactly as migrate makes them: Kafka's default where it sets none, and what another value does.
var topicSettings = map[string]struct{ fallback, harm string }{
	"cleanup.policy": {"delete", "what must be kept would be deleted by age, or by a later record of its key"},
	timestampType:    {"", "the time of acceptance, by which lag, versions of facts and idempotency keys go, would be whatever the producer says"},
}

// setting makes the check of one setting.
func (d *doctor) setting(name string) func(context.Context) (string, []problem, error) {
	return func(ctx context.Context) (string, []problem, error) {
		configs, err := d.topicConfigs(ctx)
		if err != nil {
			return "", nil, err
		}
		rule := topicSettings[name]
		var problems []problem
		for _, t := range schemas.Topics() {
			want, ok := t.Config[name]
			if !ok {
				want = rule.fallback
			}
			have, ok := configs[t.Name][name]
			if !ok || want == "" || have == want {
				continue
			}
			p := problem{What: fmt.Sprintf("topic %s: %s is %s, not %s: %s", t.Name, name, have, want, rule.harm), Do: alter(t.Name, name, want)}
			if t.Role == schemas.RoleReference && name == timestampType { // versions of references go by their offsets
				p.Status = statusWarning
				p.What = fmt.Sprintf("topic %s: %s is %s, not %s: lag, audit --since and the deletion of tombstones go by the producer's clock", t.Name, name, have, want)
			}
			problems = append(problems, p)
		}
		return name + " of every topic is as it must be", problems, nil
	}
}

func alter(topic, name, value string) string {
	return fmt.Sprintf("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s", topic, name, value)
}

// leastRetention is what any topic must keep: less is no time to see and repair a role that stands still.
const leastRetention = 24 * time.Hour

// checkRetention compares how long topics keep their records with how long the oldest waits now.
func (d *doctor) checkRetention(ctx context.Context) (string, []problem, error) {
	configs, err := d.topicConfigs(ctx)
	if err != nil {
		return "", nil, err
	}
	s, err := d.measure(ctx)
	if err != nil {
		return "", nil, err
	}
	oldest := map[string]time.Duration{}
	for _, p := range s.Partitions {
		oldest[p.Topic] = max(oldest[p.Topic], time.Duration(p.Seconds*float64(time.Second)))
	}
	var problems []problem
	for _, t := range schemas.Topics() {
		if t.Config["cleanup.policy"] == "compact" {
			// Age matters there for tombstones only: who comes too late does not hear that a record was deleted.
			const name = "delete.retention.ms"
			want, ours := millis(t.Config[name])
			if kept, ok := millis(configs[t.Name][name]); ours && ok && (kept < want || oldest[t.Name] > kept/2) {
				p := problem{Status: statusWarning, What: fmt.Sprintf("topic %s: tombstones are deleted after %s, read or not (%s); the oldest record that waits is %s old", t.Name, kept, name, oldest[t.Name].Round(time.Second)),
					Do: alter(t.Name, name, t.Config[name]) + ", and let the sink run"}
				if oldest[t.Name] > kept/2 {
					p.Status = statusFailure
				}
				problems = append(problems, p)
			}
			continue
		}
		if kept, ok := millis(configs[t.Name]["retention.ms"]); ok && kept >= 0 {
			p := problem{Status: statusWarning, What: fmt.Sprintf("topic %s: records are deleted after %s, judged or not (retention.ms); the oldest that waits is %s old", t.Name, kept, oldest[t.Name].Round(time.Second)),
				Do: alter(t.Name, "retention.ms", "-1") + ", or see that no role ever stands still for so long"}
			if kept < leastRetention || oldest[t.Name] > kept/2 {
				p.Status = statusFailure
			}
			problems = append(problems, p)
		}
		if size, err := strconv.ParseInt(configs[t.Name]["retention.bytes"], 10, 64); err == nil && size >= 0 {
			problems = append(problems, problem{Status: statusWarning, What: fmt.Sprintf("topic %s: a partition keeps %s bytes, and deletes older records judged or not (retention.bytes)", t.Name, grouped(size)),
				Do: alter(t.Name, "retention.bytes", "-1")})
		}
	}
	return "nothing is deleted by age or size", problems, nil
}

// millis reads a setting in milliseconds.
func millis(text string) (time.Duration, bool) {
	ms, err := strconv.ParseInt(text, 10, 64)
	return time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond, err == nil
}

// checkSizes compares the topics' limits with ours.
func (d *doctor) checkSizes(ctx context.Context) (string, []problem, error) {
	configs, err := d.topicConfigs(ctx)
	if err != nil {
		return "", nil, err
	}
	const name = "max.message.bytes"
	var problems []problem
	for _, t := range schemas.Topics() {
		want, _ := strconv.ParseInt(t.Config[name], 10, 64)
		have, err := strconv.ParseInt(configs[t.Name][name], 10, 64)
		switch {
		case err != nil || have == want:
		case have < want:
			problems = append(problems, problem{What: fmt.Sprintf("topic %s: %s is %d, not %d: a round with a large record fails, and is tried for ever", t.Name, name, have, want), Do: alter(t.Name, name, t.Config[name])})
		case t.Role == schemas.RoleItem || t.Role == schemas.RoleFact || t.Role == schemas.RoleReference || t.Role == schemas.RoleRequests:
			problems = append(problems, problem{Status: statusWarning, What: fmt.Sprintf("topic %s: %s is %d, not %d: the outcome or dead letter of a record that large may not fit", t.Name, name, have, want), Do: alter(t.Name, name, t.Config[name])})
		}
	}
	return "records of the largest size fit", problems, nil
}

// checkReplication looks at what a broker's end costs: of our topics and of Kafka's own for offsets and transactions.
func (d *doctor) checkReplication(ctx context.Context) (string, []problem, error) {
	names := append(schemas.TopicNames(), "__consumer_offsets", "__transaction_state")
	names = slices.DeleteFunc(names, func(name string) bool {
		t, ok := d.meta.Topics[name]
		return !ok || t.Err != nil || len(t.Partitions) == 0
	})
	described, err := d.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return "", nil, fmt.Errorf("read the topics' settings: %w", err)
	}
	var problems []problem
	var single []string // topics with one copy
	for _, r := range described {
		if r.Err != nil {
			return "", nil, fmt.Errorf("read the settings of topic %s: %w", r.Name, r.Err)
		}
		values := settingsOf(r)
		least, copies := 1, 0
		if n, err := strconv.Atoi(values["min.insync.replicas"]); err == nil {
			least = n
		}
		add := func(status string, breaks []promise, do, format string, args ...any) {
			problems = append(problems, problem{Status: status, What: "topic " + r.Name + ": " + fmt.Sprintf(format, args...), Do: do, Breaks: breaks})
		}
		for _, p := range d.meta.Topics[r.Name].Partitions.Sorted() {
			copies = max(copies, len(p.Replicas))
			switch {
			case p.Leader < 0:
				add(statusFailure, []promise{promiseRunning}, "bring its brokers back", "partition %d has no leader", p.Partition)
			case len(p.ISR) < least:
				add(statusFailure, []promise{promiseRunning}, "bring its brokers back", "partition %d has %s in sync, min.insync.replicas is %d: it takes no record", p.Partition, plural(len(p.ISR), "copy"), least)
			case len(p.ISR) < len(p.Replicas):
				add(statusWarning, nil, "bring its brokers back", "partition %d has %d of %d copies in sync", p.Partition, len(p.ISR), len(p.Replicas))
			}
		}
		if copies == 1 {
			single = append(single, r.Name)
			continue
		}
		switch {
		case least < 2:
			add(statusWarning, []promise{promisePower}, alter(r.Name, "min.insync.replicas", "2"), "min.insync.replicas is %d: an acknowledged record may be on one broker only", least)
		case least >= copies:
			add(statusWarning, nil, "replicate it once more, or lower min.insync.replicas", "min.insync.replicas is %d of %d copies: it takes no record while one broker is down", least, copies)
		}
		if values["unclean.leader.election.enable"] == "true" {
			add(statusFailure, []promise{promiseKept, promiseOnce, promiseTables}, alter(r.Name, "unclean.leader.election.enable", "false"), "an unclean election throws acknowledged records away")
		}
	}
	if len(single) > 0 {
		problems = append(problems, problem{Status: statusWarning, Breaks: []promise{promisePower},
			What: fmt.Sprintf("%s on one broker only: its disk, and what it had not yet written there when the power went, are all there is, and Apache Kafka may forget ends of transactions when it is killed and started again (%s)", plural(len(single), "topic"), firstFew(single)),
			Do:   "for more than a trial: three brokers or more, before the first counterfoil migrate; existing topics are copied with kafka-reassign-partitions.sh, with min.insync.replicas=2"})
	}
	return "every topic has several copies, of which two acknowledge", problems, nil
}

// checkGroups asks whether each group knows how far it is.
func (d *doctor) checkGroups(ctx context.Context) (string, []problem, error) {
	var problems []problem
	for _, err := range each(checkOffsets(ctx, d.conn, d.adm)) {
		problems = append(problems, problem{What: err.Error(), Do: "counterfoil migrate for what is new; counterfoil adopt --offsets for what was lost"})
	}
	s, err := d.measure(ctx)
	if err != nil {
		return "", problems, err
	}
	for _, p := range s.Partitions {
		if p.Committed >= 0 && (p.Committed < p.Start || p.Committed > p.End) && p.End >= 0 {
			problems = append(problems, problem{What: fmt.Sprintf("group %s is at offset %d of topic %s partition %d, and the log has %d to %d: records were deleted before they were read, or the log was cut", p.Group, p.Committed, p.Topic, p.Partition, p.Start, p.End),
				Do: "find out what was lost before anything is started again; counterfoil adopt --offsets says what going on from here means"})
		}
	}
	return fmt.Sprintf("%d groups know how far they are", len(groups())), problems, nil
}

// each are the errors that errors.Join has put together.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// measure reads how far the groups are.
func (d *doctor) measure(ctx context.Context) (*standing, error) {
	if d.standing == nil {
		s, err := measure(ctx, d.opts, d.adm, d.now)
		if err != nil {
			return nil, err
		}
		d.standing = s
	}
	return d.standing, nil
}

// lateAfter is how long a record may wait before doctor says so: many times what a busy role needs.
const lateAfter = time.Minute

// checkLag looks for records that wait too long.
func (d *doctor) checkLag(ctx context.Context) (string, []problem, error) {
	s, err := d.measure(ctx)
	if err != nil {
		return "", nil, err
	}
	var problems []problem
	for _, p := range s.Partitions {
		if p.Oldest == nil || p.Seconds <= lateAfter.Seconds() {
			continue
		}
		owner := "owned by " + p.Owner
		if p.Owner == "" {
			owner = "which no copy of the role owns"
		}
		problems = append(problems, problem{What: fmt.Sprintf("group %s: in topic %s partition %d, %s, offset %d waits for %.0f s", p.Group, p.Topic, p.Partition, owner, *p.Oldest, p.Seconds),
			Do: "is the role running, with enough copies? counterfoil lag shows what is stuck", Breaks: []promise{promiseRunning}, Status: statusWarning})
	}
	return fmt.Sprintf("nothing waits for more than %s", lateAfter), problems, nil
}

// checkTransactions looks for transactions that nobody ends: readers of committed records stop before the first of them.
func (d *doctor) checkTransactions(ctx context.Context) (string, []problem, error) {
	open, err := transactions.Find(ctx, d.adm, schemas.TopicNames(), d.now())
	if err != nil {
		return "", nil, err
	}
	var problems []problem
	commits, err := transactions.FindCommits(ctx, d.adm, d.now())
	if err != nil {
		problems = append(problems, problem{Status: statusWarning, Breaks: []promise{promiseRunning}, What: "whether a transaction holds back what groups have committed is not known: " + err.Error(),
			Do: "let us describe and read " + transactions.OffsetsTopic})
	}
	open = append(open, commits...)
	for _, t := range open {
		if !t.LeftBehind && t.Seconds <= d.cfg.Process.TransactionTimeout.Seconds() {
			continue // in time
		}
		p := problem{Status: statusWarning, Breaks: []promise{promiseRunning},
			What: fmt.Sprintf("transaction %s is open for %.0f s and holds back %s", t.String(), t.Seconds, firstFew(t.Partitions)),
			Do:   fmt.Sprintf("Kafka aborts it %.0f s after it began; its producer is not one of ours if that is more than TRANSACTION_TIMEOUT: give it a shorter one", t.TimeoutSeconds)}
		if t.LeftBehind || t.Seconds > lateAfter.Seconds() {
			p.Status = statusFailure
		}
		switch {
		case t.LeftBehind:
			p.Do = "counterfoil adopt --transactions says what Kafka decided on it, and ends it if it knows"
		case t.ID == "":
			p.Do = "its transactional id may be one that we may not describe; else counterfoil adopt --transactions looks for it in " + transactions.StateTopic
		case t.State == "":
			p.Do = "its coordinator does not answer now: look again"
		case t.Seconds > t.TimeoutSeconds+lateAfter.Seconds():
			p.Do = "Kafka should have ended it by now: the log of the broker that coordinates it, or of those that lead the partitions, says why not"
		}
		problems = append(problems, p)
	}
	return plural(len(open), "transaction") + " open, none for long", problems, nil
}

// Registry

func (d *doctor) checkRegistry(ctx context.Context) (string, []problem, error) {
	if d.registry.err != nil {
		return "", nil, fmt.Errorf("the schema registry does not answer at %s: %w (SCHEMA_REGISTRY_URL says where)", strings.Join(d.cfg.Registry.URL, ","), d.registry.err)
	}
	missing, err := d.schemas.Register(ctx, true)
	var problems []problem
	if err != nil {
		problems = append(problems, problem{What: err.Error(), Do: "run the version of counterfoil that these schemas belong to, or bring the registry's back"})
	}
	for _, topic := range missing {
		problems = append(problems, problem{What: "our schema of topic " + topic + " is not registered: what this version writes there cannot be read by others", Do: "run counterfoil migrate"})
	}
	return fmt.Sprintf("%s has all schemas, and all its versions are compatible", strings.Join(d.cfg.Registry.URL, ",")), problems, nil
}

// ClickHouse

func (d *doctor) checkClickHouse(context.Context) (string, []problem, error) {
	if d.clickhouse.err != nil {
		return "", nil, fmt.Errorf("%w (is it running? CLICKHOUSE_ADDR says where)", d.clickhouse.err)
	}
	var problems []problem
	var versions []string
	for _, n := range d.nodes {
		if !slices.Contains(versions, n.Version) {
			versions = append(versions, n.Version)
		}
		if !n.BlockTime {
			problems = append(problems, problem{What: fmt.Sprintf("ClickHouse %s (%s) has no function nowInBlock64, on which the constraint in_time of the log tables rests", n.Addr, n.Version), Do: "upgrade ClickHouse"})
		}
	}
	if len(versions) > 1 {
		problems = append(problems, problem{Status: statusWarning, What: "the nodes are of several versions: " + strings.Join(versions, ", "), Do: "end the upgrade that is under way"})
	}
	return fmt.Sprintf("ClickHouse %s, %s", strings.Join(versions, ", "), plural(len(d.nodes), "node")), problems, nil
}

func (d *doctor) checkMigrations(ctx context.Context) (string, []problem, error) {
	steps, err := d.conn.Migrate(ctx, true)
	if err != nil {
		return "", []problem{{What: err.Error(), Do: "run the version of counterfoil that made these tables"}}, nil
	}
	var problems []problem
	for _, s := range steps {
		problems = append(problems, problem{What: fmt.Sprintf("ClickHouse %s lacks migration %04d_%s", s.Node, s.Migration.Number, s.Migration.Name), Do: "run counterfoil migrate"})
	}
	if len(steps) == 0 { // otherwise they may not be there yet
		problems = d.tables(func(n clickhouse.NodeState, t clickhouse.TableState) *problem {
			if !t.Missing {
				return nil
			}
			return &problem{What: fmt.Sprintf("ClickHouse %s: table %s is gone", n.Addr, t.Name), Do: "bring it back from a backup: its rows are not written again"}
		})
	}
	return "all are applied, and every table is there", problems, nil
}

// tables asks f about each table of each node.
func (d *doctor) tables(f func(clickhouse.NodeState, clickhouse.TableState) *problem) []problem {
	var problems []problem
	for _, n := range d.nodes {
		for _, t := range n.Tables {
			if p := f(n, t); p != nil {
				problems = append(problems, *p)
			}
		}
	}
	return problems
}

func (d *doctor) checkConstraints(context.Context) (string, []problem, error) {
	return "a late insert is refused by every log table", d.tables(func(n clickhouse.NodeState, t clickhouse.TableState) *problem {
		if !t.Log || t.Missing || t.InTime {
			return nil
		}
		return &problem{What: fmt.Sprintf("ClickHouse %s: table %s lacks the constraint in_time: a sink that was stopped and goes on after others took over doubles rows", n.Addr, t.Name),
			Do: fmt.Sprintf("ALTER TABLE %s.%s ADD CONSTRAINT in_time CHECK write_by > nowInBlock64(3), after dropping one of that name that says otherwise", d.cfg.ClickHouse.Database, t.Name)}
	}), nil
}

func (d *doctor) checkPartitioning(context.Context) (string, []problem, error) {
	return "an insert into a log table is one part", d.tables(func(n clickhouse.NodeState, t clickhouse.TableState) *problem {
		if !t.Log || t.PartitionKey == "" {
			return nil
		}
		return &problem{What: fmt.Sprintf("ClickHouse %s: table %s is partitioned by %s: an insert becomes several parts, of which a crash may leave some", n.Addr, t.Name, t.PartitionKey),
			Do: "make the table as counterfoil migrate does, without PARTITION BY, and copy its rows with the sink stopped"}
	}), nil
}

func (d *doctor) checkDurability(context.Context) (string, []problem, error) {
	says := "an acknowledged insert is on the disk (fsync_after_insert)"
	if slices.ContainsFunc(d.nodes, func(n clickhouse.NodeState) bool { return len(n.Tables) > 0 && n.Tables[0].Replicas > 1 }) {
		says = "an acknowledged insert is on a quorum of replicas"
	}
	return says, d.tables(func(n clickhouse.NodeState, t clickhouse.TableState) *problem {
		if t.Missing || t.Synced {
			return nil
		}
		return &problem{What: fmt.Sprintf("ClickHouse %s: table %s may lose acknowledged rows when the power goes: neither fsync_after_insert nor a quorum of replicas", n.Addr, t.Name),
			Do: fmt.Sprintf("ALTER TABLE %s.%s MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1", d.cfg.ClickHouse.Database, t.Name), Status: statusWarning, Breaks: []promise{promisePower}}
	}), nil
}

func (d *doctor) checkAsyncInsert(context.Context) (string, []problem, error) {
	var problems []problem
	for _, n := range d.nodes {
		if n.AsyncInsert {
			problems = append(problems, problem{What: fmt.Sprintf("ClickHouse %s uses async_insert for us although we ask it not to: a row is acknowledged before it is in a part", n.Addr),
				Do: fmt.Sprintf("take the setting out of the profile of user %s, or let the user change it", d.cfg.ClickHouse.User)})
		}
	}
	return "off for our connections", problems, nil
}

const (
	// maxSkew is how far our clock may be from ClickHouse's: the instants in an outcome come from both.
	maxSkew = 5 * time.Second
	// maxNodeSkew is how far apart the clocks of a cluster's nodes may be: the sink adds as much to each lease.
	maxNodeSkew = time.Second
)

func (d *doctor) checkClock(context.Context) (string, []problem, error) {
	var problems []problem
	byAhead := func(a, b clickhouse.NodeState) int { return cmp.Compare(a.Ahead, b.Ahead) }
	first, last := slices.MinFunc(d.nodes, byAhead), slices.MaxFunc(d.nodes, byAhead)
	if apart := last.Ahead - first.Ahead; apart > maxNodeSkew+first.RoundTrip+last.RoundTrip {
		problems = append(problems, problem{What: fmt.Sprintf("the clocks of ClickHouse %s and %s are %s apart: leases are counted by them", first.Addr, last.Addr, apart.Round(time.Millisecond)), Do: "let NTP or chrony keep them"})
	}
	for _, n := range d.nodes {
		if off := n.Ahead.Abs(); off > maxSkew+n.RoundTrip {
			problems = append(problems, problem{Status: statusWarning, What: fmt.Sprintf("the clock of ClickHouse %s is %s from ours: instants in its rows disagree, tokens live shorter or longer (leases go by its clock alone and are safe)", n.Addr, off.Round(time.Millisecond)),
				Do: "let NTP or chrony keep both clocks"})
		}
	}
	return fmt.Sprintf("ClickHouse's clock is %s from ours", last.Ahead.Abs().Round(time.Millisecond)), problems, nil
}

// Who may call

func (d *doctor) checkKeys(ctx context.Context) (string, []problem, error) {
	reader := newTopicReader(d.opts, slog.New(slog.DiscardHandler))
	reader.patience = 10 * time.Second // checkTransactions tells of what it waits for
	keys, err := (&keyStore{topics: reader, client: d.client, registry: d.schemas}).list(ctx)
	if err != nil {
		return "", nil, err
	}
	enabled := 0
	tenants := map[string]bool{}
	for _, k := range keys {
		if k.Enabled {
			enabled++
			tenants[k.Tenant] = true
		}
	}
	if enabled == 0 {
		return "", []problem{{Status: statusWarning, What: "no API key is enabled: nobody can call the HTTP service", Do: "counterfoil keys create --tenant TENANT"}}, nil
	}
	return fmt.Sprintf("%d enabled, of %s", enabled, plural(len(tenants), "tenant")), nil, nil
}

const (
	minSecret   = 16 // characters, as ingest asks
	minDistinct = 8  // characters: a random secret of the shortest length has more
)

// guessable are words that show a secret to be from a page of documentation.
var guessable = []string{"secret", "password", "changeme", "change-me", "example", "counterfoil", "123456"}

func (d *doctor) checkSecrets(context.Context) (string, []problem, error) {
	secrets := d.cfg.Ingest.TokenSecrets
	if len(secrets) == 0 {
		return "", []problem{{Status: statusWarning, What: "TOKEN_SECRETS is not set here: ingest does not start without it", Do: "call doctor with the environment of ingest; a new secret: openssl rand -hex 32"}}, nil
	}
	const fresh = "openssl rand -hex 32 makes one; put it first and keep the old one behind it for the two hours that tokens live"
	var problems []problem
	for i, s := range secrets {
		distinct := map[rune]bool{}
		for _, r := range s {
			distinct[r] = true
		}
		word := slices.IndexFunc(guessable, func(w string) bool { return strings.Contains(strings.ToLower(s), w) })
		switch {
		case len(s) < minSecret:
			problems = append(problems, problem{What: fmt.Sprintf("secret %d of TOKEN_SECRETS has fewer than %d characters: who guesses it signs tokens of every tenant", i+1, minSecret), Do: fresh})
		case len(distinct) < minDistinct:
			problems = append(problems, problem{What: fmt.Sprintf("secret %d of TOKEN_SECRETS has only %d different characters: who guesses it signs tokens of every tenant", i+1, len(distinct)), Do: fresh})
		case word >= 0:
			problems = append(problems, problem{Status: statusWarning, What: fmt.Sprintf("secret %d of TOKEN_SECRETS contains %q: it does not look random", i+1, guessable[word]), Do: fresh})
		}
	}
	return plural(len(secrets), "secret") + ", long enough", problems, nil
}

// plural counts things.
func plural(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(thing, "y"))
	default:
		return fmt.Sprintf("%d %ss", n, thing)
	}
}
