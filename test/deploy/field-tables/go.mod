module berth/test/deploy/field-tables

go 1.26
