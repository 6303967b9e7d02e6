package clickhouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

// shop is a tenant's orders, invoices, products and stock as they were sent, kept in the slow and obvious way: by own id, the last of each.
type shop struct {
	orders, invoices map[string]sent[shopLine]
	products         map[string]sent[*schemas.Product]
	parts            map[int64]map[string]sent[string] // part numbers by customer and product
	stock            map[string]sent[*schemas.Stock]
}

// sent is what a record said.
type sent[T any] struct {
	nth   int // of all records
	value T
}

type shopLine struct {
	customer int64
	product  string
	quantity decimal.Decimal
	on       time.Time
}

func newShop() *shop {
	return &shop{map[string]sent[shopLine]{}, map[string]sent[shopLine]{}, map[string]sent[*schemas.Product]{}, map[int64]map[string]sent[string]{}, map[string]sent[*schemas.Stock]{}}
}

// lastSpelled is what was sent last of a product, in whichever spelling of its id.
func lastSpelled[T any](all map[string]sent[T], product string) (value T, ok bool) {
	nth := -1
	for id, it := range all {
		if schemas.Fold(id) == schemas.Fold(product) && it.nth > nth {
			nth, value, ok = it.nth, it.value, true
		}
	}
	return value, ok
}

// monthsBefore is the same day n months earlier, or the last of that month where it is shorter.
func monthsBefore(day time.Time, n int) time.Time {
	first := time.Date(day.Year(), day.Month()-time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1)
	return first.AddDate(0, 0, min(day.Day(), last.Day())-1)
}

func (s *shop) report(q schemas.BuyingReportParams) []schemas.BuyingReportItem {
	from := monthsBefore(q.Today, int(q.MonthsBack))
	net := map[string]decimal.Decimal{} // by folded product, as these
	invoiced := map[string]*time.Time{}
	spelled := map[string]sent[string]{}
	spell := func(key string, l sent[shopLine]) {
		if l.nth >= spelled[key].nth {
			spelled[key] = sent[string]{l.nth, l.value.product}
		}
	}
	lines := s.orders
	if q.BasedOn == schemas.BasedOnInvoices {
		lines = s.invoices
	}
	for _, it := range lines {
		l, key := it.value, schemas.Fold(it.value.product)
		if l.customer == q.CustomerID && !l.on.Before(from) && !l.on.After(q.Today) {
			net[key] = net[key].Add(l.quantity)
			spell(key, it)
		}
	}
	for _, it := range s.invoices {
		l, key := it.value, schemas.Fold(it.value.product)
		if l.customer != q.CustomerID || l.on.After(q.Today) {
			continue
		}
		spell(key, it)
		if last := invoiced[key]; l.quantity.IsPositive() && (last == nil || last.Before(l.on)) {
			invoiced[key] = &l.on
		}
	}
	var all []schemas.BuyingReportItem
	for key, quantity := range net {
		var stock schemas.Stock
		if found, ok := lastSpelled(s.stock, key); ok {
			stock = *found
		}
		back := stock.NextAvailableOn != nil && !stock.NextAvailableOn.After(q.Today.AddDate(0, 0, 7*int(q.WeeksUntilAvailable)))
		if !quantity.IsPositive() || q.WeeksUntilAvailable != 0 && !stock.AvailableNow.IsPositive() && !back {
			continue
		}
		it := schemas.BuyingReportItem{Code: spelled[key].value, Qty: quantity.Ceil().IntPart(), LastInvoiced: invoiced[key]}
		it.CustPartNo, _ = lastSpelled(s.parts[q.CustomerID], key)
		if !stock.AvailableNow.IsPositive() {
			it.NextAvail = stock.NextAvailableOn
		}
		if p, ok := lastSpelled(s.products, key); ok {
			it.Code = p.Code
			if p.Number != nil {
				it.ID = *p.Number
			}
			if p.Description != nil {
				it.Description = *p.Description
			}
			barcodes := append(slices.Clone(p.Barcodes), "", "")
			it.Barcode, it.EPOSBarcode = barcodes[0], barcodes[1]
		}
		all = append(all, it)
	}
	slices.SortFunc(all, func(a, b schemas.BuyingReportItem) int { return cmp.Compare(a.Code, b.Code) })
	return all
}

// keep notes a record, or with a nil value that it is gone, and returns the value for Kafka.
func keep[T any, R any](all map[string]sent[T], id string, nth int, value T, record R, gone bool) any {
	if gone {
		delete(all, id)
		return nil
	}
	all[id] = sent[T]{nth, value}
	return record
}

// The report is what a slow computation over the last version of each record says, whatever was sent again, to which partition, in which
// spelling and by whom it was inserted: lines change their customer, product, day and quantity, and everything comes back and goes.
func TestBuyingReportIsTheSlowOne(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	r.start(nil)
	r.start(nil)
	today := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	const customers, products, ids = 4, 8, 80
	s := newShop()
	// Only Unicode's folding makes the spellings of one product equal.
	product := func(n int) string { return fmt.Sprintf([]string{"öß%da", "ÖSS%dA", "Öß%dA"}[rng.IntN(3)], n) }
	line := func() shopLine {
		return shopLine{customer: 1 + rng.Int64N(customers), product: product(rng.IntN(products)), quantity: decimal.New(rng.Int64N(90)-25, -1), on: today.AddDate(0, 0, 3-rng.IntN(120))}
	}
	nth := 0
	for round := range 4 {
		var records []*kgo.Record
		add := func(topic string, partition int32, id string, v any) {
			// Versions go by the broker's time, or by the offset in the one partition.
			records = append(records, r.fact(topic, partition, time.UnixMilli(1_700_000_000_000+int64(nth)), id, v))
		}
		for range 150 {
			gone := func() bool { return rng.IntN(6) == 0 }
			nth++
			id, l := fmt.Sprint("L", rng.IntN(ids)), line()
			add(schemas.OrderLines, rng.Int32N(partitions), id, keep(s.orders, id, nth, l,
				&schemas.OrderLine{ID: id, Customer: l.customer, Product: l.product, Quantity: l.quantity, OrderedOn: l.on}, gone()))
			nth++
			id, l = fmt.Sprint("I", rng.IntN(ids)), line()
			add(schemas.InvoiceLines, rng.Int32N(partitions), id, keep(s.invoices, id, nth, l,
				&schemas.InvoiceLine{ID: id, Customer: l.customer, Product: l.product, Quantity: l.quantity, InvoicedOn: l.on}, gone()))
			nth++
			switch n := rng.IntN(3 * products); n % 3 {
			case 0:
				st := &schemas.Stock{Product: product(n / 3), AvailableNow: decimal.New(rng.Int64N(3)-1, 0)}
				if rng.IntN(4) > 0 {
					st.NextAvailableOn = new(today.AddDate(0, 0, rng.IntN(40)-5))
				}
				add(schemas.StockLevels, rng.Int32N(partitions), st.Product, keep(s.stock, st.Product, nth, st, st, gone()))
			case 1:
				p := &schemas.Product{ID: product(n / 3), Code: fmt.Sprint("C", n*7%10, n, rng.IntN(10)), Barcodes: []string{"501", "777", "999"}[:rng.IntN(4)]}
				if rng.IntN(4) > 0 {
					p.Number, p.Description = new(rng.Int64N(100)), new("d")
				}
				add(schemas.Products, 0, p.ID, keep(s.products, p.ID, nth, p, p, gone()))
			case 2:
				c := &schemas.CustomerPart{Customer: 1 + rng.Int64N(customers), Product: product(n / 3), PartNumber: fmt.Sprint("mine-", rng.IntN(100))}
				if s.parts[c.Customer] == nil {
					s.parts[c.Customer] = map[string]sent[string]{}
				}
				add(schemas.CustomerParts, 0, c.OwnID(), keep(s.parts[c.Customer], c.Product, nth, c.PartNumber, c, gone()))
			}
		}
		r.produce(records...)
		reports := r.conn.Reports()
		var diff string
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			diff = ""
			for customer := range int64(customers) {
				for _, basedOn := range []string{schemas.BasedOnOrders, schemas.BasedOnInvoices} {
					q := schemas.BuyingReportParams{Tenant: "acme", CustomerID: customer + 1, BasedOn: basedOn, MonthsBack: 1 + int32(round), WeeksUntilAvailable: int32(round), Today: today.AddDate(0, 0, -round)}
					got, err := reports.BuyingReport(t.Context(), q)
					must(t, err)
					if d := gocmp.Diff(s.report(q), got); d != "" {
						diff = fmt.Sprintf("%+v (-slow +report):\n%s", q, d)
						continue
					}
					if d := gocmp.Diff(got, fromView(t, r.conn, q)); d != "" {
						diff = fmt.Sprintf("%+v (-report +view):\n%s", q, d)
					}
				}
			}
			if diff == "" || time.Now().After(end) {
				break
			}
		}
		if diff != "" {
			t.Fatalf("round %d: %s", round, diff)
		}
		if got := r.query("SELECT count() FROM {db}.order_lines"); got != strconv.Itoa(len(s.orders)) {
			t.Errorf("order_lines has %s lines of %d", got, len(s.orders))
		}
	}
}

// fromView is the report as an analyst sees it.
func fromView(t *testing.T, conn *Conn, q schemas.BuyingReportParams) (all []schemas.BuyingReportItem) {
	t.Helper()
	rows, err := conn.any.Query(t.Context(), "SELECT number, code, description, part_number, barcode, epos_barcode, quantity, last_invoiced, next_available FROM "+conn.table(buyingReport)+
		"(tenant = ?, customer = ?, based_on = ?, months_back = ?, weeks_until_available = ?, today = ?) ORDER BY code, product",
		q.Tenant, q.CustomerID, q.BasedOn, q.MonthsBack, q.WeeksUntilAvailable, q.Today.Format(time.DateOnly))
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var it schemas.BuyingReportItem
		var net decimal.Decimal
		must(t, rows.Scan(&it.ID, &it.Code, &it.Description, &it.CustPartNo, &it.Barcode, &it.EPOSBarcode, &net, &it.LastInvoiced, &it.NextAvail))
		it.Qty = net.Ceil().IntPart()
		all = append(all, it)
	}
	must(t, rows.Err())
	return all
}

// An insert whose move did not come, because its sink died, is made again: the customer that had the line before is known even if a merge has
// meanwhile put the new row in the place of the old one.
func TestALineIsMovedAfterACutOffInsert(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000)
	send := func(customer int64, at time.Time) {
		v := &schemas.OrderLine{ID: "L", Customer: customer, Product: "p", Quantity: decimal.New(1, 0), OrderedOn: at.Truncate(24 * time.Hour)}
		r.produce(&kgo.Record{Topic: schemas.OrderLines, Timestamp: at, Key: []byte("acme/L"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: r.encode(schemas.OrderLines, v)})
	}
	customers := "SELECT arrayStringConcat(arraySort(groupArray(toString(customer))), ' ') FROM {db}.order_lines"
	send(1, at)
	r.wait("1", customers)
	must(t, r.conn.any.Exec(t.Context(), "INSERT INTO "+r.conn.table("order_lines_state")+" (tenant, version, id, customer) VALUES ('acme', ?, 'L', 2)", schemas.FactVersion(at.Add(time.Millisecond), 1)))
	must(t, r.conn.any.Exec(t.Context(), "OPTIMIZE TABLE "+r.conn.table("order_lines_state")+" FINAL"))
	send(2, at.Add(2*time.Millisecond))
	r.wait("2", customers)
}

// A move that fails goes on where it was, in parts, and the insert before it is not made again.
func TestAMoveThatFailsGoesOn(t *testing.T) {
	defer func(rows int) { moveRows = rows }(moveRows)
	moveRows = 10
	r := newRig(t)
	var inserts, moves atomic.Int32
	r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, table string) error {
			if table != schemas.OrderLines+"_state" {
				return nil
			}
			switch at {
			case "before send":
				inserts.Add(1)
			case "before move":
				if n := moves.Add(1); n >= 3 && n < 6 {
					return errors.New("injected")
				}
			}
			return nil
		}
	})
	at := time.UnixMilli(1_700_000_000_000)
	var lines []*kgo.Record
	for i := range 35 { // of one batch, so that they come in one insert
		v := &schemas.OrderLine{ID: fmt.Sprint("L", i), Customer: 7, Product: "p", Quantity: decimal.New(1, 0), OrderedOn: at.Truncate(24 * time.Hour)}
		lines = append(lines, r.fact(schemas.OrderLines, 0, at, v.ID, v))
	}
	r.produce(lines...)
	r.committed(schemas.OrderLines)
	if got := r.query("SELECT toString(count()) FROM {db}.order_lines WHERE customer = 7"); got != "35" {
		t.Errorf("%s lines of the customer, want 35", got)
	}
	if i, m := inserts.Load(), moves.Load(); i != 1 || m != 4+3 {
		t.Errorf("%d inserts and %d moves, want 1 and 4, of which one failed 3 times", i, m)
	}
}

// Of two records of one version, which partitions can give in the same millisecond, every move takes the same one, in whichever order it finds
// them.
func TestMovesDecideEquallyBetweenEqualVersions(t *testing.T) {
	conn := migrated(t)
	spec := factTables[schemas.OrderLines][0]
	state, follower := conn.local("order_lines_state"), conn.local("order_lines_by_customer_state")
	must(t, conn.any.Exec(t.Context(), "SYSTEM STOP MERGES "+state))
	for _, customer := range []string{"if(number % 2, 1, 2)", "if(number % 2, 2, 1)"} {
		must(t, conn.any.Exec(t.Context(), "INSERT INTO "+state+" (tenant, version, id, customer, product) SELECT 'acme', 1, concat('L', toString(number)), "+customer+", 'p' FROM numbers(100)"))
	}
	came, err := ext.NewTable("came", ext.Column("tenant", "String"), ext.Column("id", "String"))
	must(t, err)
	for i := range 100 {
		must(t, came.Append("acme", fmt.Sprint("L", i)))
	}
	must(t, conn.any.Exec(ch.Context(t.Context(), ch.WithExternalTable(came)), conn.moveSQL(spec, &spec.followers[0])))
	var winners, live, gone uint64
	must(t, conn.any.QueryRow(t.Context(), "SELECT uniqExactIf(customer, is_deleted = 0), countIf(is_deleted = 0), countIf(is_deleted) FROM "+follower).Scan(&winners, &live, &gone))
	if winners != 1 || live != 100 || gone != 100 {
		t.Errorf("%d customers have the %d lines, %d are gone elsewhere; want 1, 100, 100", winners, live, gone)
	}
}

// A window has the same day on both sides, or the last of a shorter month; what is outside is not counted.
func TestBuyingReportsWindow(t *testing.T) {
	conn := migrated(t)
	reports := conn.Reports()
	day := func(text string) time.Time {
		d, err := time.Parse(time.DateOnly, text)
		must(t, err)
		return d
	}
	customer := int64(0)
	for _, c := range []struct {
		today  string
		months int32
		first  string
	}{
		{"2024-03-31", 1, "2024-02-29"},
		{"2023-03-31", 1, "2023-02-28"},
		{"2024-08-31", 6, "2024-02-29"},
		{"2024-02-29", 12, "2023-02-28"},
		{"2024-02-29", 48, "2020-02-29"},
		{"2024-01-15", 1, "2023-12-15"},
		{"2024-12-31", 12, "2023-12-31"},
	} {
		customer++
		first, today := day(c.first), day(c.today)
		for i, on := range []time.Time{first.AddDate(0, 0, -1), first, today, today.AddDate(0, 0, 1)} {
			for _, table := range []string{"order_lines_by_customer_state (ordered_on", "invoice_lines_by_customer_state (invoiced_on"} {
				must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.cfg.Database+"."+table+", tenant, version, id, customer, product, product_key, quantity) VALUES (?, 'acme', 1, ?, ?, 'p', 'p', ?)",
					on.Format(time.DateOnly), fmt.Sprint(customer, "/", i), customer, decimal.New(1, int32(i))))
			}
		}
		for _, basedOn := range []string{schemas.BasedOnOrders, schemas.BasedOnInvoices} {
			got, err := reports.BuyingReport(t.Context(), schemas.BuyingReportParams{Tenant: "acme", CustomerID: customer, BasedOn: basedOn, MonthsBack: c.months, Today: today})
			must(t, err)
			want := []schemas.BuyingReportItem{{Code: "p", Qty: 110, LastInvoiced: &today}}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("%+v by %s (-want +got):\n%s", c, basedOn, diff)
			}
		}
	}
	// A hundred years and more is everything.
	got, err := reports.BuyingReport(t.Context(), schemas.BuyingReportParams{Tenant: "acme", CustomerID: 1, BasedOn: schemas.BasedOnOrders, MonthsBack: 1<<31 - 1, WeeksUntilAvailable: 0, Today: day("2024-03-31")})
	must(t, err)
	if len(got) != 1 || got[0].Qty != 111 {
		t.Errorf("everything: %+v", got)
	}
	for name, q := range map[string]schemas.BuyingReportParams{
		"another tenant":             {Tenant: "other", CustomerID: 1},
		"an unknown customer":        {Tenant: "acme", CustomerID: 1000},
		"an unknown account":         {Tenant: "acme", AccountNo: "NONE"},
		"neither":                    {Tenant: "acme"},
		"not available in this year": {Tenant: "acme", CustomerID: 1, WeeksUntilAvailable: 1<<31 - 1},
	} {
		q.BasedOn, q.MonthsBack, q.Today = schemas.BasedOnOrders, 1, day("2024-03-31")
		if got, err := reports.BuyingReport(t.Context(), q); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// An account number leads to the customer that took it last.
	must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.cfg.Database+".customers_state (tenant, is_deleted, version, id, account_number) VALUES ('acme', 0, 1, 77, 'A'), ('acme', 0, 2, 1, 'A'), ('other', 0, 3, 2, 'A')"))
	got, err = reports.BuyingReport(t.Context(), schemas.BuyingReportParams{Tenant: "acme", AccountNo: "A", BasedOn: schemas.BasedOnOrders, MonthsBack: 1, Today: day("2024-03-31")})
	must(t, err)
	if len(got) != 1 {
		t.Errorf("by account number: %v", got)
	}
	// What the door takes off what is asked for is no part of what was sent either.
	must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.cfg.Database+".customers_state (tenant, is_deleted, version, id, account_number) VALUES "+
		"('acme', 0, 5, 1, '\u00a0B\t'), ('acme', 0, 6, 78, 'BB'), ('acme', 0, 7, 79, NULL), ('other', 0, 8, 2, 'B')"))
	got, err = reports.BuyingReport(t.Context(), schemas.BuyingReportParams{Tenant: "acme", AccountNo: "B", BasedOn: schemas.BasedOnOrders, MonthsBack: 1, Today: day("2024-03-31")})
	must(t, err)
	if len(got) != 1 {
		t.Errorf("by an account number with blanks around it: %v", got)
	}
}

// What is left of a product is exact however much it is, or the report says that it is too much.
func TestBuyingReportOfHugeQuantities(t *testing.T) {
	conn := migrated(t)
	on := time.Date(2024, 3, 31, 0, 0, 0, 0, time.UTC)
	const most = "9999999999999999999999999999.9999999999"
	for customer, c := range []struct {
		quantities []string
		net        string
		qty        int64 // 0: too many
	}{
		{[]string{"9223372036854775806.5"}, "9223372036854775806.5", math.MaxInt64},
		{[]string{"9223372036854775807.5"}, "9223372036854775807.5", 0},
		{[]string{"1" + strings.Repeat("0", 20)}, "1" + strings.Repeat("0", 20), 0},
		{[]string{most, most}, "19999999999999999999999999999.9999999998", 0},
		{[]string{most, most, "-" + most, "7", "-" + most}, "7", 7},
	} {
		for i, quantity := range c.quantities {
			for _, table := range []string{"order_lines_by_customer_state (ordered_on", "invoice_lines_by_customer_state (invoiced_on"} {
				must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.cfg.Database+"."+table+", tenant, version, id, customer, product, product_key, quantity) VALUES (?, 'acme', 1, ?, ?, 'p', 'p', ?)",
					on.Format(time.DateOnly), fmt.Sprint(customer, "/", i), customer+1, decimal.RequireFromString(quantity)))
			}
		}
		for _, basedOn := range []string{schemas.BasedOnOrders, schemas.BasedOnInvoices} {
			q := schemas.BuyingReportParams{Tenant: "acme", CustomerID: int64(customer + 1), BasedOn: basedOn, MonthsBack: 1, Today: on}
			got, err := conn.Reports().BuyingReport(t.Context(), q)
			if c.qty == 0 && (err == nil || !strings.Contains(err.Error(), "a number of 64 bits cannot say so")) || c.qty != 0 && (err != nil || len(got) != 1 || got[0].Qty != c.qty) {
				t.Errorf("%v by %s: %v, %v", c.quantities, basedOn, got, err)
			}
			var net decimal.Decimal
			must(t, conn.any.QueryRow(t.Context(), "SELECT quantity FROM "+conn.table(buyingReport)+"(tenant = 'acme', customer = ?, based_on = ?, months_back = 1, weeks_until_available = 0, today = ?)",
				q.CustomerID, basedOn, on.Format(time.DateOnly)).Scan(&net))
			if net.String() != c.net {
				t.Errorf("view of %v by %s: %s", c.quantities, basedOn, net)
			}
		}
	}
}

// On a cluster a report adds up the lines of all servers, and finds on each what is known of the products.
func TestBuyingReportOfACluster(t *testing.T) {
	server := stack.ShardedWith(t)
	conn, err := Open(t.Context(), Config{Hosts: []string{server.Addr}, Database: "cf", User: "default", Cluster: server.Cluster})
	must(t, err)
	defer conn.Close()
	_, err = conn.Migrate(t.Context(), false)
	must(t, err)
	for i, of := range []string{
		"products_state_local (tenant, version, id, id_key, number, code) VALUES ('acme', 1, 'P', 'p', 9, 'C'), ('acme', 2, 'Q', 'q', 8, 'D')",
		"stock_state_local (tenant, version, product, product_key, available_now) VALUES ('acme', 1, 'p', 'p', 5), ('acme', 1, 'Q', 'q', 0)",
	} {
		must(t, conn.nodes[i].Exec(t.Context(), "INSERT INTO cf."+of))
		must(t, conn.nodes[i].Exec(t.Context(), fmt.Sprintf("INSERT INTO cf.order_lines_by_customer_state_local (tenant, version, id, customer, product, product_key, quantity, ordered_on) "+
			"VALUES ('acme', 1, 'l%d', 7, 'P', 'p', 2, '2024-01-01'), ('acme', 1, 'm%[1]d', 7, 'q', 'q', 1, '2024-01-01')", i)))
	}
	q := schemas.BuyingReportParams{Tenant: "acme", CustomerID: 7, BasedOn: schemas.BasedOnOrders, MonthsBack: 1, WeeksUntilAvailable: 1, Today: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}
	want := []schemas.BuyingReportItem{{ID: 9, Code: "C", Qty: 4}}
	got, err := conn.Reports().BuyingReport(t.Context(), q)
	must(t, err)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(want, fromView(t, conn, q)); diff != "" {
		t.Errorf("view (-want +got):\n%s", diff)
	}
}

// migrated is a ClickHouse with all tables and nothing else.
func migrated(t testing.TB) *Conn {
	t.Helper()
	server := stack.ClickHouse(t)
	conn, err := Open(t.Context(), configOf(t, server))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Migrate(t.Context(), false)
	must(t, err)
	return conn
}

// Reports for a customer with 10,000 order and 10,000 invoice lines among BUYING_LINES of each (default 1,000,000), 20,000 products, of which
// the customer bought 2,000, in parts as an insert every so often leaves them.
func BenchmarkBuyingReport(b *testing.B) {
	lines := 1_000_000
	if text := os.Getenv("BUYING_LINES"); text != "" {
		var err error
		lines, err = strconv.Atoi(text)
		must(b, err)
	}
	conn := migrated(b)
	exec := func(sql string) {
		b.Helper()
		must(b, conn.any.Exec(b.Context(), strings.ReplaceAll(sql, "{db}", conn.cfg.Database)))
	}
	for _, table := range []string{"order_lines_by_customer_state (ordered_on", "invoice_lines_by_customer_state (invoiced_on"} {
		const block = 500_000
		for from := 0; from < lines; from += block {
			// Customers 1 to lines/10,000 have 10,000 lines each; ids are as random as they get.
			exec(fmt.Sprintf(`INSERT INTO {db}.%s, tenant, version, id, customer, product, product_key, quantity)
SELECT toDate32('2024-01-01') - cityHash64(number) %% 1000, 'acme', number, hex(sipHash128(number)), 1 + number %% %d, concat('P', toString(cityHash64(number, 1) %% 2000 * 10)) AS p, lower(p), 1 + number %% 5
FROM numbers(%d, %d) SETTINGS max_insert_threads = 1`, table, max(1, lines/10_000), from, min(block, lines-from)))
		}
	}
	exec("INSERT INTO {db}.products_state (tenant, version, id, id_key, number, code, description, barcodes) SELECT 'acme', 1, concat('P', toString(number)) AS p, lower(p), number, concat('C', toString(number)), 'a lamp', ['501', '777'] FROM numbers(20000)")
	exec("INSERT INTO {db}.stock_state (tenant, version, product, product_key, available_now, next_available_on) SELECT 'acme', 1, concat('P', toString(number)) AS p, lower(p), number % 3, '2024-02-01' FROM numbers(20000)")
	exec("INSERT INTO {db}.customer_parts_state (tenant, version, customer, product, product_key, part_number) SELECT 'acme', 1, 1 + number % 100, concat('P', toString(number)) AS p, lower(p), 'mine' FROM numbers(20000)")
	reports := conn.Reports()
	cpu := func() (micros uint64) { // of all queries
		must(b, conn.any.QueryRow(b.Context(), "SELECT sum(value) FROM system.events WHERE event = 'OSCPUVirtualTimeMicroseconds'").Scan(&micros))
		return micros
	}
	var took []time.Duration
	n, before := 0, cpu()
	for b.Loop() {
		n++
		basedOn := []string{schemas.BasedOnOrders, schemas.BasedOnInvoices}[n%2]
		start := time.Now()
		got, err := reports.BuyingReport(b.Context(), schemas.BuyingReportParams{Tenant: "acme", CustomerID: 1 + int64(n*7919%max(1, lines/10_000)), BasedOn: basedOn, MonthsBack: 24, WeeksUntilAvailable: 8, Today: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)})
		must(b, err)
		if len(got) < 1000 {
			b.Fatalf("%d items", len(got))
		}
		took = append(took, time.Since(start))
	}
	b.ReportMetric(float64(cpu()-before)/float64(n), "clickhouse-cpu-µs/op")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
