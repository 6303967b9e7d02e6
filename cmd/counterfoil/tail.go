package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
)

func tailCommand() *command {
	var opts tailOptions
	return &command{
		name:    "tail",
		args:    "TOPIC [flags]",
		summary: "print a topic's records as JSON lines",
		help: `Prints one JSON object a line: partition, offset, timestamp, key, headers and value, decoded with the schema that the record was written with.
Only committed records are shown. It prints the last ten and ends; --from start prints all, and --follow goes on with what comes.

A value is printed in the form in which counterfoil send takes it. A record that cannot be decoded has error and value_base64 in place of
value; a deleted one has the value null.

Examples:
  counterfoil tail customer_events.unprocessed
  counterfoil tail ownership.processed --follow --tenant acme
  counterfoil tail accounts --from start --tenant acme | jq -c .value | counterfoil send accounts - --tenant acme-test`,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&opts.from, "from", "end", "start: print from the first record that is left; end: print the last ones")
			f.IntVar(&opts.n, "n", -1, "how many records: from the start the first n, else the last n of all partitions together (default: all, or 10)")
			f.BoolVar(&opts.follow, "follow", false, "go on with what comes, until Ctrl-C")
			f.StringVar(&opts.tenant, "tenant", "", "only records of this tenant")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			switch {
			case len(args) != 1:
				return badUsage("it takes one topic, not %d arguments", len(args))
			case opts.from != "start" && opts.from != "end":
				return badUsage("--from is %q: choose start or end", opts.from)
			case opts.n < -1:
				return badUsage("-n is %d: choose 0 or more", opts.n)
			}
			kafka, client, registry, err := reachTopics(ctx, app)
			if err != nil {
				return err
			}
			defer client.Close()
			t := newTailer(args[0], opts, newTopicReader(kafka, warnings(app)), client, registry.Client(), app.stdout)
			return t.run(ctx)
		},
	}
}

type tailOptions struct {
	from   string // start or end
	n      int    // -1: not given
	follow bool
	tenant string // empty: all
}

// tailer prints one topic.
type tailer struct {
	topic    string
	opts     tailOptions
	topics   topicReader
	client   *kgo.Client
	registry *sr.Client
	out      *bufio.Writer
	codecs   map[int32]*knownSchema
	line     []byte
}

// knownSchema is a schema id that was looked up: its codec, or why there is none.
type knownSchema struct {
	codec *plainjson.Codec
	err   error
}

func newTailer(topic string, opts tailOptions, topics topicReader, client *kgo.Client, registry *sr.Client, out io.Writer) *tailer {
	return &tailer{topic: topic, opts: opts, topics: topics, client: client, registry: registry, out: bufio.NewWriterSize(out, 64<<10), codecs: map[int32]*knownSchema{}}
}

func (t *tailer) run(ctx context.Context) error {
	starts, ends, err := endOffsets(ctx, kadm.NewClient(t.client), t.topic)
	if err != nil {
		return err
	}
	if t.opts.from == "end" {
		err = t.last(ctx, starts, ends)
	} else {
		var complete bool
		if complete, err = t.first(ctx, starts, ends); complete {
			return errors.Join(err, t.out.Flush())
		}
	}
	if err == nil && t.opts.follow {
		err = t.followFrom(ctx, ends)
	}
	if errors.Is(err, context.Canceled) && t.opts.follow {
		err = nil // Ctrl-C is how following ends
	}
	return errors.Join(err, t.out.Flush())
}

// first prints from the beginning up to the high watermarks of now; complete when it has printed as many as were asked for.
func (t *tailer) first(ctx context.Context, starts, ends []int64) (complete bool, err error) {
	left := t.opts.n
	if left == 0 {
		return true, nil
	}
	err = t.topics.read(ctx, t.topic, starts, ends, func(rec *kgo.Record) (bool, error) {
		if !t.wanted(rec) {
			return true, nil
		}
		left--
		return left != 0, t.print(ctx, rec)
	})
	return left == 0, err
}

// last prints the last n records of all partitions, by their timestamps. Offsets have gaps where transaction markers and compacted records
// were, so a partition is read from ever further back until there are enough.
func (t *tailer) last(ctx context.Context, starts, ends []int64) error {
	n := t.opts.n
	if n < 0 {
		n = 10
	}
	if n == 0 {
		return nil
	}
	var found []*kgo.Record
	for p := range ends {
		for back := int64(2*n + 16); ; back *= 8 {
			from, to := make([]int64, len(ends)), make([]int64, len(ends)) // the others are empty
			from[p], to[p] = max(starts[p], ends[p]-back), ends[p]
			var here []*kgo.Record
			err := t.topics.read(ctx, t.topic, from, to, func(rec *kgo.Record) (bool, error) {
				if !t.wanted(rec) {
					return true, nil
				}
				if here = append(here, rec); len(here) > 2*n {
					here = slices.Clone(here[len(here)-n:])
				}
				return true, nil
			})
			if err != nil {
				return err
			}
			if len(here) >= n || from[p] == starts[p] {
				found = append(found, here[max(0, len(here)-n):]...)
				break
			}
		}
	}
	slices.SortStableFunc(found, func(a, b *kgo.Record) int { return a.Timestamp.Compare(b.Timestamp) })
	for _, rec := range found[max(0, len(found)-n):] {
		if err := t.print(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// followFrom prints what lies at or behind the offsets until ctx is done.
func (t *tailer) followFrom(ctx context.Context, from []int64) error {
	if err := t.out.Flush(); err != nil {
		return err
	}
	to := make([]int64, len(from))
	for p := range to {
		to[p] = noEnd
	}
	return t.topics.read(ctx, t.topic, from, to, func(rec *kgo.Record) (bool, error) {
		if !t.wanted(rec) {
			return true, nil
		}
		return true, errors.Join(t.print(ctx, rec), t.out.Flush())
	})
}

// wanted looks at the tenant header alone, so that a record with a broken header is shown as well.
func (t *tailer) wanted(rec *kgo.Record) bool {
	return t.opts.tenant == "" || slices.ContainsFunc(rec.Headers, func(h kgo.RecordHeader) bool {
		return h.Key == schemas.HeaderTenant && string(h.Value) == t.opts.tenant
	})
}

func (t *tailer) print(ctx context.Context, rec *kgo.Record) error {
	dst := append(t.line[:0], `{"partition":`...)
	dst = strconv.AppendInt(dst, int64(rec.Partition), 10)
	dst = strconv.AppendInt(append(dst, `,"offset":`...), rec.Offset, 10)
	dst = plainjson.AppendInstant(append(dst, `,"timestamp":`...), rec.Timestamp, "2006-01-02T15:04:05.000Z", rec.Timestamp.UnixMilli())
	dst = append(dst, `,"key":`...)
	if rec.Key == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendBytes(dst, rec.Key)
	}
	dst = append(dst, `,"headers":{`...)
	for i, h := range rec.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendBytes(append(plainjson.AppendText(dst, h.Key), ':'), h.Value)
	}
	dst = append(dst, '}')
	dst, err := t.appendValue(ctx, dst, rec.Value)
	if err != nil {
		return err
	}
	t.line = append(dst, "}\n"...)
	_, err = t.out.Write(t.line)
	return err
}

// appendValue appends the member value, or error and value_base64. It fails only where the registry does not answer: that says nothing about
// the record.
func (t *tailer) appendValue(ctx context.Context, dst, value []byte) ([]byte, error) {
	if value == nil {
		return append(dst, `,"value":null`...), nil
	}
	id, _, bad := schemas.SchemaID(value)
	if bad == nil {
		known, err := t.schema(ctx, id)
		if err != nil {
			return dst, err
		}
		if bad = known.err; bad == nil {
			var done []byte
			if done, bad = known.codec.AppendJSON(append(dst, `,"value":`...), value); bad == nil {
				return done, nil
			}
		}
	}
	dst = plainjson.AppendText(append(dst, `,"error":`...), bad.Error())
	return plainjson.AppendText(append(dst, `,"value_base64":`...), base64.StdEncoding.EncodeToString(value)), nil
}

// schema looks a schema id up once.
func (t *tailer) schema(ctx context.Context, id int32) (*knownSchema, error) {
	if known := t.codecs[id]; known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var known knownSchema
	s, err := t.registry.SchemaByID(ctx, int(id))
	var refused *sr.ResponseError
	switch {
	case err == nil:
		known.codec, known.err = plainjson.New(int(id), s.Schema)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		known.err = fmt.Errorf("the registry has no schema with id %d", id)
	default:
		return nil, fmt.Errorf("ask the schema registry for schema %d: %w (is it running? SCHEMA_REGISTRY_URL says where)", id, err)
	}
	t.codecs[id] = &known
	return &known, nil
}

// appendBytes appends a key or the value of a header: text, or {"base64": ...} where it is none.
func appendBytes(dst, b []byte) []byte {
	if utf8.Valid(b) {
		return plainjson.AppendText(dst, string(b))
	}
	return append(plainjson.AppendText(append(dst, `{"base64":`...), base64.StdEncoding.EncodeToString(b)), '}')
}
