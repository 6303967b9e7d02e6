package crmcom

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// maxLines is how many lines of products and measures a call may have. An empty line takes 3 bytes of a body and 13 times that in memory, so
// the limit of the body alone bounds nothing; with real lines a body of 16 MiB does not come near this.
const maxLines = 200_000

// parser reads the rows of one call. Its slabs give the rows' texts and events their memory by the hundred instead of one by one; what lives
// in them lives as long as the batch.
type parser struct {
	kind      *kind
	tenant    string
	currency  *schemas.CurrencyIdentifier // of the call, for each row
	defects   []schemas.Reason            // of the currency, for each row
	seen      map[string]struct{}         // identifiers of the rows before
	texts     []string
	events    []schemas.CustomerEvent
	referrals []schemas.Referral
	lines     int // of products and measures in all rows
}

// parseRows reads the rows of a call that parseCall found well-formed. Each row becomes an item, whatever it holds.
func parseRows(c *call, k *kind, tenant string) []ingest.Item {
	p := &parser{kind: k, tenant: tenant, seen: make(map[string]struct{}, c.count)}
	if c.currency != "" {
		of := row{parser: p, r: lenient.NewReader(c.currency, lenient.JSON)}
		p.currency = of.currencyIdentifier("intended_currency")
		p.defects = of.defects
	}
	items := make([]ingest.Item, 0, c.count)
	r := lenient.NewReader(c.rows, lenient.JSON)
	for r.Enter(); r.More(); {
		items = append(items, p.row(r))
	}
	return items
}

// row is one row while it is read.
type row struct {
	*parser
	r        *lenient.Reader
	event    *schemas.CustomerEvent // one of the two
	referral *schemas.Referral
	common   *schemas.EventCommon // of either
	ref      *string
	defects  []schemas.Reason
	array    string // the line that is being read: array[index]; "" outside lines
	index    int
	types    int // how often payment_medium_type_identifier came
}

// row reads one row. It is refused here when it has a defect that its schema cannot carry, when it cannot be told apart from an earlier
// row, or not be answered; the defects that are left to the engine otherwise are then looked for at once, so that all are listed.
func (p *parser) row(r *lenient.Reader) ingest.Item {
	start := r.Start()
	w := row{parser: p, r: r}
	if r.Kind() != lenient.Object {
		w.defect(schemas.CodeInvalid, "", r.Value(), "is not an object.")
		return ingest.Item{Defects: w.defects, Original: []byte(r.Source(start, r.Pos())), Format: schemas.FormatJSON}
	}
	if p.kind.is == referral {
		w.referral = p.newReferral()
		w.common = &w.referral.EventCommon
	} else {
		w.event = p.newEvent()
		w.common = &w.event.EventCommon
		w.event.Kind, w.event.IntendedCurrency = p.kind.event, p.currency
		w.defects = append(w.defects, p.defects...)
	}
	for r.Enter(); r.More(); {
		if m, known := rowMembers[r.Name()]; known && m.of&p.kind.is != 0 {
			m.read(&w)
		} else {
			r.Value()
		}
	}
	fits := len(w.defects) == 0
	w.identify()
	item := ingest.Item{Ref: w.ref, Format: schemas.FormatJSON}
	if w.referral != nil {
		item.Key = []byte(p.tenant)
	}
	if fits {
		item.Value = w.value()
	}
	if len(w.defects) > 0 {
		item.Defects = w.allDefects()
		item.Original = []byte(r.Source(start, r.Pos()))
	}
	return item
}

func (w *row) value() any {
	if w.referral != nil {
		return w.referral
	}
	return w.event
}

// identify checks the caller's identifier of the row: of two rows with the same one the later one is refused, because their outcomes could
// not be told apart.
func (w *row) identify() {
	if w.ref == nil {
		if !schemas.Covered(w.defects, schemas.Reason{Code: schemas.CodeMissing, Field: "ref"}) {
			w.defect(schemas.CodeMissing, "ref", lenient.Value{}, "is missing.")
		}
		return
	}
	if *w.ref == "" {
		w.defect(schemas.CodeMissing, "ref", lenient.Value{}, "is empty.")
		return
	}
	if n := len(*w.ref); n > ingest.MaxRefBytes {
		w.defect(schemas.CodeOutOfRange, "ref", lenient.Value{}, fmt.Sprintf("has %d bytes, at most %d are allowed.", n, ingest.MaxRefBytes))
		w.ref = nil
		return
	}
	if _, twice := w.seen[*w.ref]; twice {
		w.defect(schemas.CodeDuplicateRef, "ref", lenient.Value{Kind: lenient.String, Text: *w.ref}, "was used by an earlier row of the same call.")
		return
	}
	w.seen[*w.ref] = struct{}{}
}

// allDefects are those found while reading and those of the rest of the row.
func (w *row) allDefects() []schemas.Reason {
	var rest []schemas.Reason
	if w.referral != nil {
		rest = validation.CheckReferral(w.referral)
	} else {
		rest = validation.CheckEvent(w.event)
	}
	found := w.defects
	for _, reason := range rest {
		// What could not be read is absent from the value, and not to be called missing as well.
		if !schemas.Covered(w.defects, reason) && len(found) < schemas.MaxReasons {
			found = append(found, reason)
		}
	}
	return found
}

// defect notes what is wrong with a member. The message goes on after the member's path.
func (w *row) defect(code, field string, v lenient.Value, message string) {
	if len(w.defects) >= schemas.MaxReasons {
		return
	}
	path := field
	if w.array != "" {
		path = w.array + "[" + strconv.Itoa(w.index) + "]"
		if field != "" {
			path += "." + field
		}
	}
	subject := path
	if subject == "" {
		subject = "The row"
	}
	w.defects = append(w.defects, schemas.Reason{Code: code, Field: path, Value: shown(v), Message: subject + " " + message})
}

// shown is a value as it goes into a reason: nil for what is long or cannot be shown.
func shown(v lenient.Value) *string {
	if v.Kind == lenient.Invalid || len(v.Text) > 200 || !utf8.ValidString(v.Text) || strings.IndexByte(v.Text, 0) >= 0 {
		return nil
	}
	s := strings.Clone(v.Text)
	return &s
}

// readRef reads the caller's identifier; a number counts as its text, so that 6 and "6" are the same.
func (w *row) readRef() {
	v := w.r.Value()
	w.ref = nil
	switch {
	case v.Kind == lenient.Null:
	case v.Kind != lenient.String && v.Kind != lenient.Number:
		w.defect(schemas.CodeInvalid, "ref", v, "must be a text.")
	case !utf8.ValidString(v.Text):
		w.defect(schemas.CodeInvalid, "ref", v, "is not valid UTF-8.")
	default:
		w.ref = w.keep(v.Text)
	}
}

// text reads a text; a number counts as its text as sent, null as not given.
func (w *row) text(field string) *string {
	v := w.r.Value()
	switch v.Kind {
	case lenient.String, lenient.Number:
		return w.keep(v.Text)
	case lenient.Null:
		return nil
	}
	w.defect(schemas.CodeInvalid, field, v, "must be a text.")
	return nil
}

// decimal reads a number, or the text of one, exactly.
func (w *row) decimal(field string) *schemas.Decimal {
	v := w.r.Value()
	if v.Kind == lenient.Null || v.Kind == lenient.String && v.Text == "" {
		return nil
	}
	if v.Kind != lenient.Number && v.Kind != lenient.String || !lenient.IsNumber(v.Text) {
		w.defect(schemas.CodeInvalid, field, v, "must be a number.")
		return nil
	}
	d, ok := parseDecimal(v.Text)
	if !ok {
		w.defect(schemas.CodeOutOfRange, field, v, "must have at most 28 digits before the point and 10 after it.")
		return nil
	}
	return &d
}

// float reads a user defined field of the type Float, the only numbers that CRM.COM itself declares to be floats.
func (w *row) float(field string) *float64 {
	v := w.r.Value()
	if v.Kind == lenient.Null || v.Kind == lenient.String && v.Text == "" {
		return nil
	}
	if v.Kind != lenient.Number && v.Kind != lenient.String || !lenient.IsNumber(v.Text) {
		w.defect(schemas.CodeInvalid, field, v, "must be a number.")
		return nil
	}
	f, err := strconv.ParseFloat(v.Text, 64)
	if err != nil {
		w.defect(schemas.CodeOutOfRange, field, v, "is too large.")
		return nil
	}
	return &f
}

func (w *row) date(field string) *time.Time {
	v := w.r.Value()
	if v.Kind == lenient.Null || v.Kind == lenient.String && v.Text == "" {
		return nil
	}
	var t time.Time
	ok := v.Kind == lenient.String
	if ok {
		t, ok = parseDate(v.Text)
	}
	if !ok {
		w.defect(schemas.CodeInvalid, field, v, "must be a date such as 2016-06-22T15:00:00, with Z or an offset behind it if need be, or 2016-06-22.")
		return nil
	}
	if !schemas.InstantFits(t) {
		w.defect(schemas.CodeOutOfRange, field, v, "must lie between 1900-01-01 and 2261-12-31.")
		return nil
	}
	return &t
}

// slot is where a member of an identifier goes.
type slot struct {
	name string
	to   **string
}

// identifier reads an object whose members are texts, and reports whether it was one. How many members may be given is the check's to say.
func (w *row) identifier(field string, slots ...slot) bool {
	if w.r.Kind() != lenient.Object {
		if v := w.r.Value(); v.Kind != lenient.Null {
			w.defect(schemas.CodeInvalid, field, v, "must be an object.")
		}
		return false
	}
	good := true
members:
	for w.r.Enter(); w.r.More(); {
		name := w.r.Name()
		for _, s := range slots {
			if s.name != name {
				continue
			}
			switch v := w.r.Value(); v.Kind {
			case lenient.String, lenient.Number:
				*s.to = w.keep(v.Text)
			case lenient.Null:
				*s.to = nil
			default:
				w.defect(schemas.CodeInvalid, field, v, "has the member "+s.name+", which must be a text.")
				good = false
			}
			continue members
		}
		w.r.Value()
	}
	return good
}

func (w *row) account(field string) *schemas.AccountIdentifier {
	var id schemas.AccountIdentifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"number", &id.Number}, slot{"name", &id.Name}) {
		return nil
	}
	return &id
}

func (w *row) participant(field string) *schemas.ParticipantIdentifier {
	var id schemas.ParticipantIdentifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"number", &id.Number}) {
		return nil
	}
	return &id
}

func (w *row) named(field string) *schemas.Identifier {
	var id schemas.Identifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"name", &id.Name}, slot{"alternative_code", &id.AlternativeCode}) {
		return nil
	}
	return &id
}

func (w *row) product(field string) *schemas.ProductIdentifier {
	var id schemas.ProductIdentifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"code", &id.Code}, slot{"alternative_code", &id.AlternativeCode}) {
		return nil
	}
	return &id
}

func (w *row) invoice(field string) *schemas.InvoiceIdentifier {
	var id schemas.InvoiceIdentifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"number", &id.Number}, slot{"reference_number", &id.ReferenceNumber}, slot{"back_office_code", &id.BackOfficeCode}) {
		return nil
	}
	return &id
}

func (w *row) currencyIdentifier(field string) *schemas.CurrencyIdentifier {
	var id schemas.CurrencyIdentifier
	if !w.identifier(field, slot{"id", &id.ID}, slot{"code", &id.Code}) {
		return nil
	}
	return &id
}

// paymentMediumType reads payment_medium_type_identifier. The page of financial achievements prints that member twice and describes the second one as
// the brand: there, the second one is the brand.
func (w *row) paymentMediumType() {
	w.types++
	if w.types == 1 || w.kind.is != financialAchievement {
		w.event.PaymentMediumType = w.named("payment_medium_type")
		return
	}
	w.paymentMediumBrand()
}

func (w *row) paymentMediumBrand() {
	brand := w.named("payment_medium_brand")
	if brand != nil && w.event.PaymentMediumBrand != nil {
		w.defect(schemas.CodeMultipleIdentifiers, "payment_medium_brand", lenient.Value{}, "is given more than once.")
		return
	}
	if brand != nil {
		w.event.PaymentMediumBrand = brand
	}
}

// readLines reads an array of objects. member reads one member of a line, and reports whether it knows it.
func readLines[T any](w *row, array string, member func(line *T, name string) bool) *[]T {
	if w.r.Kind() != lenient.Array {
		if v := w.r.Value(); v.Kind != lenient.Null {
			w.defect(schemas.CodeInvalid, array, v, "must be an array.")
		}
		return nil
	}
	lines, told := []T{}, false
	for w.r.Enter(); w.r.More(); {
		if w.lines == maxLines {
			if w.r.Value(); !told {
				w.array, told = "", true
				w.defect(schemas.CodeOutOfRange, array, lenient.Value{}, "has more lines than a call may have, "+strconv.Itoa(maxLines)+".")
			}
			continue
		}
		w.lines++
		w.array, w.index = array, len(lines)
		lines = append(lines, *new(T))
		if w.r.Kind() != lenient.Object {
			w.defect(schemas.CodeInvalid, "", w.r.Value(), "must be an object.")
			continue
		}
		line := &lines[w.index]
		for w.r.Enter(); w.r.More(); {
			if !member(line, w.r.Name()) {
				w.r.Value()
			}
		}
	}
	w.array = ""
	return &lines
}

func (w *row) products() *[]schemas.PurchaseLine {
	return readLines(w, "products", func(line *schemas.PurchaseLine, name string) bool {
		switch name {
		case "product_identifier":
			line.Product = w.product("product")
		case "quantity":
			line.Quantity = w.decimal("quantity")
		case "net_amount":
			line.NetAmount = w.decimal("net_amount")
		case "vat_amount":
			line.VATAmount = w.decimal("vat_amount")
		case "total_amount":
			line.TotalAmount = w.decimal("total_amount")
		default:
			return false
		}
		return true
	})
}

func (w *row) measures() *[]schemas.Measure {
	return readLines(w, "measures", func(line *schemas.Measure, name string) bool {
		switch name {
		case "key_performance_indicator_identifier":
			line.KPI = w.named("kpi")
		case "value":
			line.Value = w.decimal("value")
		case "product_identifier":
			line.Product = w.product("product")
		default:
			return false
		}
		return true
	})
}

// slab is how many events and texts are made at once.
const slab = 256

func (p *parser) keep(s string) *string {
	if len(p.texts) == cap(p.texts) {
		p.texts = make([]string, 0, slab)
	}
	p.texts = append(p.texts, s)
	return &p.texts[len(p.texts)-1]
}

func (p *parser) newEvent() *schemas.CustomerEvent {
	if len(p.events) == cap(p.events) {
		p.events = make([]schemas.CustomerEvent, 0, slab/8)
	}
	p.events = append(p.events, schemas.CustomerEvent{})
	return &p.events[len(p.events)-1]
}

func (p *parser) newReferral() *schemas.Referral {
	if len(p.referrals) == cap(p.referrals) {
		p.referrals = make([]schemas.Referral, 0, slab/8)
	}
	p.referrals = append(p.referrals, schemas.Referral{})
	return &p.referrals[len(p.referrals)-1]
}
