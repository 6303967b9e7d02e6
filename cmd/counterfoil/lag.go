package main

import (
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
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/transactions"
	"github.com/counterfoil/counterfoil/schemas"
)

// exitLate is the exit code of lag where --max-seconds is passed: an alert can tell it from a lag that could not be measured.
const exitLate = 3

type lagOptions struct {
	all, json  bool
	maxSeconds int // -1: no bound
	window     time.Duration
}

func lagCommand() *command {
	var opts lagOptions
	return &command{
		name:    "lag",
		args:    "[flags]",
		summary: "show how far each role is behind, in records and seconds, and where one is stuck",
		help: `Shows, for each consumer group, topic and partition that has something before it: the committed offset, the last stable offset (up to where
transactions have ended), the end of the log, who owns the partition, and the lag:
  RECORDS  end minus committed. Offsets have gaps (transaction markers, aborted and compacted records), so this is the most that there can be.
  SECONDS  the age of the record at the committed offset, which is the oldest that waits.

Where there is a lag it looks twice, --window apart. A group whose commit stood still meanwhile, before a record that is older than that, is
stuck: the record is named, so that counterfoil tail can show it. Transactions are shown that are open and hold back everything behind them, or
what a processor's group has committed; on one that its coordinator is no longer at work on, counterfoil adopt --transactions says more.

The exit code is 0, 1 where the lag cannot be read, and 3 where a record waits for longer than --max-seconds.

Examples:
  counterfoil lag
  watch counterfoil lag
  counterfoil lag --max-seconds 60 > /dev/null || alert
  counterfoil lag --all --json | jq '.partitions[] | select(.owner == "")'`,
		flags: func(f *flag.FlagSet) {
			f.BoolVar(&opts.all, "all", false, "show partitions without a lag, and every open transaction, as well")
			f.BoolVar(&opts.json, "json", false, "print one JSON object")
			f.IntVar(&opts.maxSeconds, "max-seconds", -1, "exit with 3 where a record waits for longer than this `many` seconds; -1: no bound")
			f.DurationVar(&opts.window, "window", 3*time.Second, "how long a commit must stand still to be called stuck; 0: look once")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			switch {
			case len(args) > 0:
				return badUsage("lag takes flags only, not %q", args[0])
			case opts.maxSeconds < -1:
				return badUsage("--max-seconds is %d: choose 0 or more", opts.maxSeconds)
			case opts.window < 0:
				return badUsage("--window is %s: choose 0 or more", opts.window)
			}
			kafka, client, _, err := reachTopics(ctx, app)
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := measureTwice(ctx, kafka, kadm.NewClient(client), time.Now, opts.window)
			if err != nil {
				return err
			}
			return reportLag(app.stdout, s, opts)
		},
	}
}

// standing is how far the groups are, and which transactions are open, at a moment.
type standing struct {
	At           time.Time           `json:"at"`
	Partitions   []partitionLag      `json:"partitions"`
	Transactions []transactions.Open `json:"transactions"`
}

// partitionLag is how far a group is in a partition. Offsets are -1 where Kafka has none.
type partitionLag struct {
	Group     string  `json:"group"`
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Committed int64   `json:"committed"`
	Start     int64   `json:"start"`       // of the log
	Stable    int64   `json:"last_stable"` // readers of committed records get to here
	End       int64   `json:"end"`         // the high watermark
	Records   int64   `json:"records"`     // at most: offsets have gaps
	Seconds   float64 `json:"seconds"`     // age of the oldest record that waits
	Oldest    *int64  `json:"oldest"`      // its offset
	Owner     string  `json:"owner"`       // the member's instance, or its id; empty: none
	Host      string  `json:"host"`        // of the owner
	Stuck     string  `json:"stuck"`       // why it stands still; empty: it does not, or nothing waits
	Problem   string  `json:"problem"`     // why the lag is not known; empty: it is
}

// measureTwice measures, and where something waits and window is not 0 again after window, so that what stands still can be told from what
// is being worked off.
func measureTwice(ctx context.Context, kafka []kgo.Opt, adm *kadm.Client, now func() time.Time, window time.Duration) (*standing, error) {
	first, err := measure(ctx, kafka, adm, now)
	if err != nil || window == 0 || !slices.ContainsFunc(first.Partitions, func(p partitionLag) bool { return p.Oldest != nil }) {
		return first, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(window):
	}
	second, err := measure(ctx, kafka, adm, now)
	if err != nil {
		return nil, err
	}
	for i := range second.Partitions {
		p := &second.Partitions[i]
		stood := slices.ContainsFunc(first.Partitions, func(q partitionLag) bool {
			return q.Group == p.Group && q.Topic == p.Topic && q.Partition == p.Partition && q.Committed == p.Committed
		})
		if p.Oldest == nil || !stood || p.Seconds < window.Seconds() {
			continue
		}
		switch {
		case p.Committed >= p.Stable:
			p.Stuck = "an open transaction holds it back"
		case p.Owner == "":
			p.Stuck = "no copy of the role owns the partition: is it running?"
		default:
			p.Stuck = "its owner does not get on: see its log"
		}
	}
	return second, nil
}

// measure reads how far all groups are, what waits, and what is open. What cannot be known of one partition is said in its row.
func measure(ctx context.Context, kafka []kgo.Opt, adm *kadm.Client, now func() time.Time) (*standing, error) {
	names := schemas.TopicNames()
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read where the topics begin: %w", err)
	}
	// Before the ends: what a running role commits meanwhile must not seem to lie beyond them.
	groups := groups()
	commits := map[string]kadm.OffsetResponses{}
	for group := range groups {
		if commits[group], err = fetchOffsets(ctx, adm, group); err != nil {
			return nil, err
		}
	}
	stable, err := adm.ListCommittedOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read the last stable offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read where the topics end: %w", err)
	}
	s := &standing{Partitions: []partitionLag{}, Transactions: []transactions.Open{}}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		owners, err := groupOwners(ctx, adm, group)
		if err != nil {
			return nil, err
		}
		begin := len(s.Partitions)
		for _, topic := range groups[group] {
			for _, partition := range slices.Sorted(maps.Keys(ends[topic])) {
				end := ends[topic][partition]
				row := partitionLag{Group: group, Topic: topic, Partition: partition, Committed: -1, Start: -1, Stable: -1, End: -1}
				if end.Err != nil {
					row.Problem = topicError(topic, end.Err).Error()
					s.Partitions = append(s.Partitions, row)
					continue
				}
				row.End = end.Offset
				if o, ok := starts.Lookup(topic, partition); ok && o.Err == nil {
					row.Start = o.Offset
				}
				if o, ok := stable.Lookup(topic, partition); ok && o.Err == nil {
					row.Stable = o.Offset
				}
				if o, ok := commits[group].Lookup(topic, partition); ok && o.Err == nil {
					row.Committed = o.At
				}
				if m, ok := owners[topicPartition{topic, partition}]; ok {
					row.Owner, row.Host = m.MemberID, m.ClientHost
					if m.InstanceID != nil {
						row.Owner = *m.InstanceID
					}
				}
				switch {
				case row.Committed < 0:
					row.Problem = "the group has no committed offset here"
				case row.Committed < row.Start || row.Committed > row.End:
					row.Problem = fmt.Sprintf("the committed offset is not in the log, which has %d to %d", row.Start, row.End)
				default:
					row.Records = row.End - row.Committed
				}
				s.Partitions = append(s.Partitions, row)
			}
		}
		if err := readOldest(ctx, kafka, s.Partitions[begin:], now); err != nil {
			return nil, err
		}
	}
	if s.Transactions, err = transactions.Find(ctx, adm, names, now()); err != nil {
		return nil, err
	}
	if commits, err := transactions.FindCommits(ctx, adm, now()); err == nil { // who may not ask goes without
		s.Transactions = append(s.Transactions, commits...)
	}
	s.At = now()
	return s, nil
}

type topicPartition struct {
	topic     string
	partition int32
}

// groupOwners are the members of a group by the partitions that they own.
func groupOwners(ctx context.Context, adm *kadm.Client, group string) (map[topicPartition]kadm.DescribedGroupMember, error) {
	owners := map[topicPartition]kadm.DescribedGroupMember{}
	described, err := adm.DescribeGroups(ctx, group)
	if err == nil {
		err = described[group].Err
	}
	if errors.Is(err, kerr.GroupIDNotFound) { // nobody has ever joined
		return owners, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the members of group %s: %w", group, err)
	}
	for _, member := range described[group].Members {
		assigned, ok := member.Assigned.AsConsumer()
		if !ok {
			continue
		}
		for _, t := range assigned.Topics {
			for _, p := range t.Partitions {
				owners[topicPartition{t.Topic, p}] = member
			}
		}
	}
	return owners, nil
}

// oldestWait bounds the reading of the records at the committed offsets, for partitions whose leader does not answer.
const oldestWait = 10 * time.Second

// readOldest fills in the oldest record that waits in each of a group's rows that has a lag. It reads what is not committed as well: what an
// open transaction has written waits for its end.
func readOldest(ctx context.Context, kafka []kgo.Opt, rows []partitionLag, now func() time.Time) error {
	waiting := map[topicPartition]*partitionLag{}
	from := map[string]map[int32]kgo.Offset{}
	for i := range rows {
		if r := &rows[i]; r.Records > 0 {
			waiting[topicPartition{r.Topic, r.Partition}] = r
			if from[r.Topic] == nil {
				from[r.Topic] = map[int32]kgo.Offset{}
			}
			from[r.Topic][r.Partition] = kgo.NewOffset().At(r.Committed)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	client, err := kgo.NewClient(append(slices.Concat(kafka, schemas.ConsumeCommitted()),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.ConsumePartitions(from),
		kgo.FetchMaxPartitionBytes(64<<10), // a whole batch comes all the same
		kgo.FetchMaxWait(250*time.Millisecond))...)
	if err != nil {
		return fmt.Errorf("Kafka: %w", err)
	}
	defer client.Close()
	limit, cancel := context.WithTimeout(ctx, oldestWait)
	defer cancel()
	for len(waiting) > 0 && limit.Err() == nil {
		fetches := client.PollFetches(limit)
		at := now()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			tp := topicPartition{p.Topic, p.Partition}
			r := waiting[tp]
			switch {
			case r == nil:
				return
			case len(p.Records) > 0:
				first := p.Records[0] // or a marker, where only such are left
				r.Oldest, r.Seconds = &first.Offset, max(0, at.Sub(first.Timestamp).Seconds())
			case p.Err != nil && limit.Err() == nil:
				r.Problem = fmt.Sprintf("the record at the committed offset cannot be read: %v", p.Err)
			default:
				return
			}
			delete(waiting, tp)
			client.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Partition}})
		})
	}
	for _, r := range waiting {
		r.Problem = fmt.Sprintf("Kafka did not give the record at the committed offset within %s", oldestWait)
	}
	return ctx.Err()
}

// openNotable is how old an open transaction must be to be shown unasked: ours are open only while they produce.
const openNotable = time.Second

// reportLag prints what there is to see. The error says that a lag is not known or passes the bound.
func reportLag(w io.Writer, s *standing, opts lagOptions) error {
	shown := *s
	if !opts.all {
		shown.Partitions = slices.DeleteFunc(slices.Clone(s.Partitions), func(p partitionLag) bool { return p.Records == 0 && p.Problem == "" })
		shown.Transactions = slices.DeleteFunc(slices.Clone(s.Transactions), func(t transactions.Open) bool { return !t.LeftBehind && t.Seconds < openNotable.Seconds() })
	}
	var err error
	if opts.json {
		err = json.NewEncoder(w).Encode(shown)
	} else {
		err = printLag(w, &shown)
	}
	if err != nil {
		return err
	}
	var oldest *partitionLag
	for i := range s.Partitions {
		switch p := &s.Partitions[i]; {
		case p.Problem != "":
			return fmt.Errorf("the lag of group %s in %s/%d is not known: %s (counterfoil doctor says what to do)", p.Group, p.Topic, p.Partition, p.Problem)
		case oldest == nil || p.Seconds > oldest.Seconds:
			oldest = p
		}
	}
	if opts.maxSeconds >= 0 && oldest != nil && oldest.Seconds > float64(opts.maxSeconds) {
		return &exitError{exitLate, fmt.Errorf("group %s is %.0f s behind in %s/%d; --max-seconds is %d", oldest.Group, oldest.Seconds, oldest.Topic, oldest.Partition, opts.maxSeconds)}
	}
	return nil
}

// printLag prints the table, then what is stuck, then the open transactions.
func printLag(w io.Writer, s *standing) error {
	if len(s.Partitions) == 0 {
		fmt.Fprintln(w, "Nothing waits: every group has read all of its topics.")
	} else {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "GROUP\tTOPIC\tPARTITION\tCOMMITTED\tSTABLE\tEND\tRECORDS\tSECONDS\tOWNER")
		for _, p := range s.Partitions {
			owner := p.Owner
			if owner == "" {
				owner = "-"
			} else if p.Host != "" {
				owner += " (" + p.Host + ")"
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%d\t%.1f\t%s\n", p.Group, p.Topic, p.Partition, offset(p.Committed), offset(p.Stable), offset(p.End),
				p.Records, p.Seconds, owner)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w, "RECORDS is the most that there can be: offsets have gaps.")
	}
	for _, p := range s.Partitions {
		switch {
		case p.Problem != "":
			fmt.Fprintf(w, "\nUNKNOWN: %s in %s/%d: %s\n", p.Group, p.Topic, p.Partition, p.Problem)
		case p.Stuck != "":
			fmt.Fprintf(w, "\nSTUCK: %s before topic %s partition %d offset %d, which is %.0f s old: %s\n", p.Group, p.Topic, p.Partition, *p.Oldest, p.Seconds, p.Stuck)
		}
	}
	for _, t := range s.Transactions {
		fmt.Fprintf(w, "\nOPEN TRANSACTION %s for %.0f s: holds back %s\n", t.String(), t.Seconds, firstFew(t.Partitions))
	}
	return nil
}

// offset writes an offset that may be unknown.
func offset(o int64) string {
	if o < 0 {
		return "-"
	}
	return fmt.Sprint(o)
}

// firstFew joins names, and says how many more there are than a line should hold.
func firstFew[T any](names []T) string {
	const few = 6
	var shown []string
	for _, n := range names[:min(few, len(names))] {
		shown = append(shown, fmt.Sprint(n))
	}
	if len(names) <= few {
		return strings.Join(shown, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(shown, ", "), len(names)-few)
}
