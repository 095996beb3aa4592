export interface Duck {
    readonly name: string;
}
export type Goose = Duck & {
    neck: number;
};
