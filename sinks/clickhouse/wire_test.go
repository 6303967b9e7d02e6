package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/schemas"
)

// What goes over the wire arrives, compressed or not, in pieces or not; after an error of the server the next INSERT goes over another
// connection.
func TestWire(t *testing.T) {
	r := newRig(t)
	for _, compressed := range []bool{false, true} {
		t.Run(fmt.Sprintf("compressed=%t", compressed), func(t *testing.T) {
			table := fmt.Sprintf("%s.wire_%t", r.cfg.Database, compressed)
			must(t, r.conn.any.Exec(t.Context(), "CREATE TABLE "+table+" (n Int64, s Nullable(String), l Array(Int32), CONSTRAINT small CHECK n < 1000000) ENGINE = MergeTree ORDER BY n"))
			opts, err := r.cfg.options(r.cfg.Hosts)
			must(t, err)
			conn, err := opts.DialContext(t.Context(), r.cfg.Hosts[0])
			must(t, err)
			w := newWire(conn, compressed)
			defer w.close()
			must(t, w.hello(t.Context(), &r.cfg))
			insert := func(from, rows int) error {
				count := 0
				n, s, l := int64Col(&count), stringCol(&count).shape(true, false), int32Col(&count).shape(false, true)
				for i := range rows {
					n.put(int64(from + i))
					if i%3 > 0 {
						s.put(strings.Repeat("x", i%200))
					}
					for j := range i % 4 {
						l.put(int32(j))
					}
					l.close()
					count++
				}
				for _, c := range []column{n, s, l} {
					c.settle(rows)
				}
				if err := w.begin(t.Context(), "INSERT INTO "+table+" (n, s, l) VALUES", schemas.NewBatchKey(), map[string]string{"async_insert": "0"}); err != nil {
					return err
				}
				return w.send(t.Context(), []blockColumn{{"n", "Int64", n.write}, {"s", "Nullable(String)", s.write}, {"l", "Array(Int32)", l.write}}, rows)
			}
			must(t, insert(0, 1))
			must(t, insert(1, 50_000)) // some 5 MB
			got := r.query("SELECT concat(toString(count()), ' ', toString(uniqExact(n)), ' ', toString(sum(length(s))), ' ', toString(countIf(s IS NULL)), ' ', toString(sum(length(l)))) FROM " + table)
			nulls, text, items := 1, 0, 0
			for i := range 50_000 {
				if i%3 == 0 {
					nulls++
				} else {
					text += i % 200
				}
				items += i % 4
			}
			if want := fmt.Sprintf("50001 50001 %d %d %d", text, nulls, items); got != want {
				t.Errorf("rows, distinct, bytes, nulls, items: %s, want %s", got, want)
			}
			var exception *ch.Exception
			if err := insert(999_999, 2); !errors.As(err, &exception) || exception.Code != 469 {
				t.Errorf("a block that the table refuses: %v", err)
			}
		})
	}
}

// A server that does not answer is not waited for beyond the context, whatever it is asked.
func TestWireEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	cfg := Config{Hosts: []string{l.Addr().String()}, Database: "x"}
	for name, ask := range map[string]func(ctx context.Context, w *wire) error{
		"hello": func(ctx context.Context, w *wire) error { return w.hello(ctx, &cfg) },
		"begin": func(ctx context.Context, w *wire) error { return w.begin(ctx, "INSERT", "id", nil) },
		"send":  func(ctx context.Context, w *wire) error { return w.send(ctx, nil, 0) },
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		if err := ask(ctx, newWire(conn, false)); err == nil || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
		cancel()
	}
}

// The server ended the writers' idle connections, as it does after a restart: no insert fails, none is tried again.
func TestConnectionEndedByTheServer(t *testing.T) {
	r := newRig(t)
	p := startProxy(t, r.cfg.Hosts[0])
	cfg := r.cfg
	cfg.Hosts = []string{p.addr}
	conn, err := Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	s := r.start(func(s *Sink) { s.conn = conn })
	for n := range 4 {
		r.produce(r.ownerships(n*100, n*100+100)...)
		r.exact(n*100 + 100)
		p.drop()
	}
	if n := s.counter(t, "insert_retries_total") + s.counter(t, "unknown_outcomes_total"); n != 0 {
		t.Errorf("%v inserts failed", n)
	}
	must(t, s.stop())
}

func TestDecimal128(t *testing.T) {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)
	one := big.NewInt(1)
	numbers := []*big.Int{big.NewInt(0), one, big.NewInt(-1), big.NewInt(1 << 62), big.NewInt(-1 << 63), new(big.Int).Lsh(one, 63), new(big.Int).Lsh(one, 64),
		new(big.Int).Neg(new(big.Int).Lsh(one, 64)), new(big.Int).Sub(limit, one), new(big.Int).Sub(one, limit)}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		n := new(big.Int).Rsh(new(big.Int).Mul(new(big.Int).SetUint64(rng.Uint64()), new(big.Int).SetUint64(rng.Uint64())), uint(2+rng.IntN(120)))
		if rng.IntN(2) == 0 {
			n.Neg(n)
		}
		numbers = append(numbers, n)
	}
	for _, n := range numbers {
		if new(big.Int).Abs(n).Cmp(limit) >= 0 {
			continue
		}
		length := n.BitLen()/8 + 1
		bytes := new(big.Int).And(n, new(big.Int).Sub(new(big.Int).Lsh(one, uint(length)*8), one)).FillBytes(make([]byte, length))
		v, ok := decimal128(bytes, schemas.DecimalScale)
		if diff := cmp.Diff(n.String(), signed(v).String()); diff != "" || !ok {
			t.Errorf("%t (-want +got):\n%s", ok, diff)
		}
		// With a smaller scale the same digits are a larger number.
		if n.IsInt64() && n.BitLen() < 40 {
			if v, ok := decimal128(bytes, schemas.DecimalScale-2); !ok || signed(v).Cmp(new(big.Int).Mul(n, big.NewInt(100))) != 0 {
				t.Errorf("%s at two digits less: %s, %t", n, signed(v), ok)
			}
		}
	}
	for _, scale := range []int32{schemas.DecimalScale, 0} {
		if _, ok := decimal128(limit.Bytes(), scale); ok {
			t.Errorf("39 digits at scale %d are taken", scale)
		}
	}
	if _, ok := decimal128([]byte{1}, schemas.DecimalScale+1); ok {
		t.Error("a digit that would be cut off is taken")
	}
}

// signed is the value of a 128-bit integer in two's complement.
func signed(v proto.Decimal128) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(int64(v.High)), 64)
	return n.Add(n, new(big.Int).SetUint64(v.Low))
}
