package schemas

import (
	"fmt"

	"github.com/twmb/avro"
)

// sameUnits reports a member that a writer counts in another unit than its reader does, as timestamp-micros where that is timestamp-millis. Avro
// resolves such schemas, by the types beneath, and the value would be another instant. A writer that says nothing of the unit means the reader's.
func sameUnits(writer, reader *avro.Schema) error {
	w, r := writer.Root(), reader.Root()
	u := &unitCheck{writer: NamedTypesOf(w), reader: NamedTypesOf(r)}
	return u.check("", w, r)
}

type unitCheck struct {
	writer, reader NamedTypes
	open           []*avro.SchemaNode // the reader's records that are being looked at
}

func (u *unitCheck) check(path string, w, r *avro.SchemaNode) error {
	w, r = u.writer.Follow(w), u.reader.Follow(r)
	for _, open := range u.open {
		if open == r {
			return nil
		}
	}
	switch {
	case r.Type == "union":
		for i := range r.Branches {
			if err := u.check(path, w, &r.Branches[i]); err != nil {
				return err
			}
		}
	case w.Type == "union":
		for i := range w.Branches {
			if err := u.check(path, &w.Branches[i], r); err != nil {
				return err
			}
		}
	case w.Type != r.Type:
	case r.Type == "record":
		u.open = append(u.open, r)
		defer func() { u.open = u.open[:len(u.open)-1] }()
		for i := range r.Fields {
			for j := range w.Fields {
				if field := &r.Fields[i]; field.Name == w.Fields[j].Name {
					if err := u.check(path+"."+field.Name, &w.Fields[j].Type, &field.Type); err != nil {
						return err
					}
				}
			}
		}
	case r.Type == "array":
		return u.check(path+"[]", w.Items, r.Items)
	case r.Type == "map":
		return u.check(path+"{}", w.Values, r.Values)
	case w.LogicalType != "" && r.LogicalType != "" && w.LogicalType != r.LogicalType:
		return fmt.Errorf("%s is written as %s and read as %s", path[1:], w.LogicalType, r.LogicalType)
	}
	return nil
}
